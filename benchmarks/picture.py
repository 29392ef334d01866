"""The one picture of the benchmark: speed, memory and share of the ceiling, line by line, with the targets.

A light ground of its own: it reads on a dark page as on a light one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from auto_bot_tuner.evaluation.charts import BLUE, DARK, GREY, PALE, RED, new_figure, save_figure
from benchmarks.configurations import Configuration
from benchmarks.results import Record, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUND = "#fbfbf9"


def draw(record: Record, configurations: Mapping[str, Configuration], file: Path) -> None:
    save_figure(paint(record, configurations), file)


def paint(record: Record, configurations: Mapping[str, Configuration]) -> Figure:
    """Three panels that share their lines. A line whose sides did not do the same work is left out."""
    results = [record.results[name] for name in configurations if name in record.results]
    results = [result for result in results if result.agrees and {"speed", "writing"} & set(result.figures)]
    figure = new_figure(13, 1.9 + 0.36 * len(results))
    figure.set_facecolor(GROUND)
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(1.5, 1, 1))
    speeds(panels[0], results, configurations)
    memories(panels[1], results, configurations)
    ceilings(panels[2], results, configurations)
    for axes in panels:
        axes.set_facecolor(GROUND)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=GREY, alpha=0.2)
        axes.set_axisbelow(True)
    labels = [short(configurations[result.name]) for result in results]
    panels[0].set_yticks(range(len(results)), labels, color=DARK)
    panels[0].invert_yaxis()
    figure.suptitle("auto_bot_tuner beside TRL: the same work, the same losses", color=DARK, fontsize=13)
    figure.supxlabel(
        f"{record.setting['machine']}, {record.setting['threads']} thread(s) a side", color=GREY, fontsize=8
    )
    return figure


def short(configuration: Configuration) -> str:
    return configuration.title.replace("; TRL out of the box", "").replace("; TRL at its best", ", TRL at its best")


def targets(axes: Axes, results: Sequence[Result], configurations: Mapping[str, Configuration], figure: str) -> None:
    """A short upright stroke where the target of a line lies."""
    for place, result in enumerate(results):
        for target in configurations[result.name].targets:
            if target.figure == figure:
                is_reached = target.reached(result.figures[figure].median)
                axes.plot(
                    [target.bound] * 2, [place - 0.42, place + 0.42], color=DARK if is_reached else RED, linewidth=2.2
                )


def speeds(axes: Axes, results: Sequence[Result], configurations: Mapping[str, Configuration]) -> None:
    """How many times as fast: the median's bar, the rounds' span, the target."""
    for place, result in enumerate(results):
        spread = result.figures.get("speed")
        if spread is None:
            axes.annotate("no peer: TRL has no PPO any more", (0.05, place), color=GREY, fontsize=8, va="center")
            continue
        at_best = configurations[result.name].task.variant == "best"
        axes.barh(place, spread.median, color=PALE if at_best else BLUE, height=0.62)
        axes.plot([spread.low, spread.high], [place] * 2, color=GREY, linewidth=1.4)
        axes.annotate(f" {spread.median:.2f}×", (spread.high, place), color=DARK, fontsize=8, va="center")
    axes.axvline(1, color=GREY, linewidth=1, linestyle="--")
    targets(axes, results, configurations, "speed")
    axes.set(title="speed ÷ peer (higher is better)", xlim=(0, None))
    axes.margins(x=0.12)


def memories(axes: Axes, results: Sequence[Result], configurations: Mapping[str, Configuration]) -> None:
    for place, result in enumerate(results):
        if (ratio := result.get("memory")) is not None:
            at_best = configurations[result.name].task.variant == "best"
            axes.barh(place, ratio, color=PALE if at_best else BLUE, height=0.62)
            # Inside the bar: beside it the target's stroke would cross it.
            axes.annotate(f"{ratio:.2f} ", (ratio, place), color=GROUND, fontsize=8, va="center", ha="right")
    axes.axvline(1, color=GREY, linewidth=1, linestyle="--")
    targets(axes, results, configurations, "memory")
    axes.set(title="memory ÷ peer (lower is better)", xlim=(0, 1.15))


def ceilings(axes: Axes, results: Sequence[Result], configurations: Mapping[str, Configuration]) -> None:
    """Both sides' share of the speed of a large matrix product."""
    for place, result in enumerate(results):
        for figure, colour, shift in (("ceiling", BLUE, -0.16), ("peer ceiling", GREY, 0.16)):
            if (share := result.get(figure)) is not None:
                axes.barh(place + shift, share, color=colour, height=0.3)
                axes.annotate(f" {share:.0%}", (share, place + shift), color=DARK, fontsize=7, va="center")
    targets(axes, results, configurations, "ceiling")
    axes.set(title="share of the matmul ceiling", xlim=(0, 1))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    for label, colour in (("ours", BLUE), ("peer", GREY)):
        axes.barh([0], [0], color=colour, label=label)
    axes.plot([], [], color=DARK, linewidth=2.2, label="target, reached")
    axes.plot([], [], color=RED, linewidth=2.2, label="target, not reached")
    axes.legend(loc="lower right", fontsize=7, framealpha=0.9)
