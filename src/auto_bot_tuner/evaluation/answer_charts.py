"""Measurements as pictures: accuracy and benchmark scores by task, wins and losses, lengths and loops, losses by place.

Each picture answers a question that its table cannot: where the intervals overlap, whether the longer answer wins,
whether a mean of 20 words is twenty times 20 or 1 and 400, whether a model makes use of its context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auto_bot_tuner.evaluation.charts import BLUE, DARK, GREY, PALE, RED, new_figure, save_figure, tidy, whiskers
from auto_bot_tuner.evaluation.intervals import Share
from auto_bot_tuner.evaluation.quality import LOOP_LENGTH, ngrams

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from auto_bot_tuner.evaluation.accuracy import AccuracyReport
    from auto_bot_tuner.evaluation.benchmark_scores import Score
    from auto_bot_tuner.evaluation.generation import Response
    from auto_bot_tuner.evaluation.perplexity import ScoredRow
    from auto_bot_tuner.evaluation.win_rates import WinRate

COLORS = (BLUE, RED, GREY, DARK, PALE)
MOST_BARS = 40  # more tasks than this are no picture; the table has them all
FEWEST_AT_PLACE = 20  # losses: the mean of fewer is noise


def draw_accuracy(report: AccuracyReport, file: str | Path, title: str = "") -> None:
    """Share of right answers by task, worst first; the dashed line is that of all tasks.

    Raises:
        UserError: the file cannot be written (so for every `draw_…` here).
    """
    by_task = sorted(report.by_task.items(), key=lambda item: item[1].value)[:MOST_BARS]
    more = {f"pass@{k}": share for k, share in report.pass_at.items() if k > 1}
    shares = {**(dict(by_task) if len(report.by_task) > 1 else {}), "all": report.overall, **more}
    figure, axes = one_panel(len(shares))
    draw_bars(axes, shares)
    axes.axvline(report.overall.value, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="share of answers that are right, with 95 %")
    finish(figure, title, file)


def draw_scores(scores: Sequence[Score], file: str | Path, title: str = "") -> None:
    """lm-eval's scores between 0 and 1, with their intervals; others (a perplexity, say) have no place on this axis."""
    drawn = [score for score in scores if 0 <= score.value <= 1][:MOST_BARS]
    figure, axes = one_panel(len(drawn))
    ends = [score.interval or (score.value, score.value) for score in drawn]
    spans = [
        [max(0.0, score.value - low) for score, (low, _) in zip(drawn, ends, strict=True)],
        [max(0.0, high - score.value) for score, (_, high) in zip(drawn, ends, strict=True)],
    ]
    bars(axes, [f"{score.task}: {score.metric}" for score in drawn], [score.value for score in drawn], spans)
    for i, score in enumerate(drawn):
        label(axes, i, f"{score.value:.3f} of {score.questions:,}")
    axes.set(xlabel="score, with 95 %")
    finish(figure, title, file)


def draw_winrate(
    result: WinRate,
    outcomes: Sequence[float],
    words: tuple[Sequence[int], Sequence[int]],
    file: str | Path,
    title: str = "",
) -> None:
    """Wins, ties and losses of the first model: of all comparisons, and by which answer is longer.

    A judge that leans to length gives itself away where the lower bars differ: equal ones speak for the answers.
    """
    longer = [a - b for a, b in zip(*words, strict=True)]
    groups = {
        "all": list(outcomes),
        "A is longer": [outcome for outcome, more in zip(outcomes, longer, strict=True) if more > 0],
        "as long": [outcome for outcome, more in zip(outcomes, longer, strict=True) if more == 0],
        "B is longer": [outcome for outcome, more in zip(outcomes, longer, strict=True) if more < 0],
    }
    groups = {name: group for name, group in groups.items() if group}
    figure, axes = one_panel(len(groups), extra=0.6)
    y, left = np.arange(len(groups)), np.zeros(len(groups))
    for name, value, color in (("A wins", 1, BLUE), ("tie", 0.5, "#cbd5e0"), ("B wins", 0, RED)):
        shares = np.array([group.count(value) / len(group) for group in groups.values()])
        axes.barh(y, shares, left=left, color=color, height=0.6, label=name)
        left = left + shares
    low, high = result.interval
    axes.errorbar(
        [result.rate],
        [0],
        xerr=[[max(0, result.rate - low)], [max(0, high - result.rate)]],
        fmt="o",
        color="black",
        markersize=4,
        capsize=3,
        label="win rate, with 95 % (a tie is half a win)",
    )
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
    for i, group in enumerate(groups.values()):
        label(axes, i, f"{len(group):,}")
    axes.set_yticks(y, list(groups))
    axes.set(xlim=(0, 1), ylim=(len(groups) - 0.5, -0.6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False, fontsize=9)
    tidy(axes)
    finish(figure, title, file)


def draw_generations(responses: Mapping[str, Sequence[Response]], file: str | Path, title: str = "") -> None:
    """How long the answers of each model are, and how much of each answer repeats itself."""
    figure = new_figure(10, 3.8)
    lengths_axes, loops_axes = figure.subplots(1, 2)
    lengths = {name: [len(response.token_ids) for response in told] for name, told in responses.items()}
    loops = {name: [repetition(response.text) for response in told] for name, told in responses.items()}
    most = max(max(values) for values in lengths.values())
    draw_histograms(lengths_axes, lengths, np.linspace(0, most, min(most, 24) + 1))
    lengths_axes.set(xlabel="tokens of an answer", ylabel="answers", title="Length")
    draw_histograms(loops_axes, loops, np.linspace(0, 1, 21))
    loops_axes.set(xlabel=f"share of its runs of {LOOP_LENGTH} words said before", ylabel="answers", title="Loops")
    cut = [sum(not response.ended for response in told) for told in responses.values()]
    names = [f"{name} ({count} cut off)" if count else name for name, count in zip(responses, cut, strict=True)]
    figure.legend(lengths_axes.get_legend_handles_labels()[0], names, loc="outside lower center", frameon=False)
    finish(figure, title, file)


def draw_losses(rows: Sequence[ScoredRow], file: str | Path, title: str = "") -> None:
    """The mean loss by place in the text, and how the rows' own means spread.

    Context helps: the curve falls. Where it rises again, the model is past the lengths that it was trained on.
    """
    figure = new_figure(10 if len(rows) > 1 else 6, 3.8)
    panels = figure.subplots(1, 2 if len(rows) > 1 else 1, squeeze=False)[0]
    places = np.concatenate([row.places for row in rows])
    losses = np.concatenate([row.losses for row in rows])
    mean = float(losses.mean())
    middles, means, spans = by_place(places, losses)
    panels[0].errorbar(middles, means, yerr=spans, color=BLUE, marker="o", markersize=3, capsize=2, linewidth=1.2)
    panels[0].axhline(mean, color=GREY, linestyle="--", linewidth=1, label=f"all tokens: {mean:.3f}")
    panels[0].set(xlabel="place of the token in its text", ylabel="loss, nats per token", title="By place, with 95 %")
    panels[0].set_xscale("log")
    panels[0].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    panels[0].xaxis.set_minor_formatter(lambda value, _: "")
    panels[0].legend(frameon=False, fontsize=9)
    tidy(panels[0])
    if len(rows) > 1:
        own = [float(row.losses.mean()) for row in rows if len(row.losses)]
        panels[1].hist(own, bins=min(30, max(5, len(own) // 4)), color=PALE, edgecolor="white")
        panels[1].axvline(mean, color=GREY, linestyle="--", linewidth=1)
        panels[1].set(xlabel="mean loss of a row", ylabel="rows", title=f"{len(own):,} rows")
        tidy(panels[1])
    finish(figure, title, file)


# --- parts ----------------------------------------------------------------------------------------------------------


def by_place(places: np.ndarray, losses: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """(mean place, mean loss, ± 1.96 standard errors) of bins whose width grows with the place."""
    edges = np.unique(np.geomspace(1, places.max() + 1, 25).astype(int))
    edges = np.append(edges[:-1], places.max() + 1)
    found = []
    for low, high in pairwise(edges):
        inside = (places >= low) & (places < high)
        if inside.sum() >= min(FEWEST_AT_PLACE, len(losses)):
            values = losses[inside]
            found.append((float(places[inside].mean()), float(values.mean()), 1.96 * values.std() / len(values) ** 0.5))
    middles, means, spans = ([one[i] for one in found] for i in range(3))
    return middles, means, [float(span) for span in spans]


def repetition(text: str) -> float:
    """Share of a text's runs of four words that were said before in it; 0 where there is none."""
    grams = ngrams(text.split(), LOOP_LENGTH)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def draw_histograms(axes: Axes, values: Mapping[str, Sequence[float]], edges: np.ndarray) -> None:
    """One outline per model: filled bars of several would hide each other."""
    from matplotlib.ticker import MaxNLocator

    for i, (name, own) in enumerate(values.items()):
        color = COLORS[i % len(COLORS)]
        axes.hist(own, bins=edges.tolist(), color=color, alpha=0.18)
        axes.hist(own, bins=edges.tolist(), color=color, histtype="step", linewidth=1.6, label=name)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes)


def draw_bars(axes: Axes, shares: Mapping[str, Share]) -> None:
    bars(axes, list(shares), [share.value for share in shares.values()], whiskers(list(shares.values())))
    for i, share in enumerate(shares.values()):
        label(axes, i, f"{share.value:.0%} of {share.n:,}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def bars(axes: Axes, names: Sequence[str], values: Sequence[float], spans: Sequence[Sequence[float]]) -> None:
    y = range(len(names))
    axes.barh(y, values, color=[BLUE if name == "all" else PALE for name in names], height=0.65)
    axes.errorbar(values, y, xerr=spans, fmt="none", ecolor=DARK, linewidth=1, capsize=2)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    axes.set_yticks(list(y), list(names))
    tidy(axes)


def label(axes: Axes, place: int, text: str) -> None:
    axes.annotate(text, (1.02, place), va="center", fontsize=9, annotation_clip=False)


def one_panel(count: int, extra: float = 0.0) -> tuple[Figure, Axes]:
    figure = new_figure(8, 1.7 + extra + 0.32 * count)
    return figure, figure.subplots()


def finish(figure: Any, title: str, file: str | Path) -> None:
    figure.suptitle(title, fontsize=10)
    save_figure(figure, file)
