"""The report card of a reward model as a picture: can its confidence be believed, and in what is it right?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from auto_bot_tuner.evaluation.intervals import Share
from auto_bot_tuner.evaluation.report_card import RewardReport
from auto_bot_tuner.utils.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, PALE, DARK, GREY, RED = "#2b6cb0", "#90b4d8", "#1a365d", "#718096", "#c05621"
MOST_BARS = 14  # categories, those with most pairs first


def draw_reward_report(report: RewardReport, file: str | Path, title: str = "") -> None:
    """Draw the calibration curve and the accuracy by category; the suffix of `file` says png, svg or pdf.

    Raises:
        UserError: the file cannot be written.
    """
    shares = {"all pairs": report.accuracy, **dict(list(report.by_category.items())[:MOST_BARS])}
    if len(report.by_category) == 1:
        shares = {"all pairs": report.accuracy, **report.by_length}
    figure = new_figure(11, max(4.2, 1.6 + 0.36 * len(shares)))
    calibration, bars = figure.subplots(1, 2, width_ratios=(1, 1.25))
    draw_calibration(calibration, report)
    draw_shares(bars, shares, report)
    figure.suptitle(title)
    save_figure(figure, file)


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own, not pyplot's: nothing global, no window, whatever backend the user has set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, file: str | Path) -> None:
    """Write a figure, with the folders above its file; the suffix says the format.

    Its words are written as they are: matplotlib would read the dollars in a name of somebody's data as mathematics.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        with rc_context({"text.parse_math": False}):  # of what is only made now, such as marks of an axis
            figure.savefig(file, dpi=120)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from error


def draw_calibration(axes: Axes, report: RewardReport) -> None:
    """Share of right pairs against confidence, one point per bin; below the diagonal the margins claim too much."""
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    x = [bin.confidence for bin in report.calibration]
    y = [bin.right.value for bin in report.calibration]
    spans = whiskers([bin.right for bin in report.calibration])
    axes.errorbar(x, y, yerr=spans, color=BLUE, marker="o", markersize=5, capsize=2, label="this model, with 95 %")
    low = min([0.45, *(bin.right.interval[0] for bin in report.calibration)])
    for bin in report.calibration:
        axes.annotate(f"{bin.right.n:,}", (bin.confidence, low - 0.03), color=GREY, fontsize=8, ha="center", va="top")
    axes.set(
        xlim=(0.45, 1.02),
        ylim=(low - 0.08, 1.02),
        xlabel="confidence: sigmoid(|margin|)   (grey: pairs)",
        ylabel="share of pairs that are right",
        title=f"Calibration (ECE {report.ece:.1%}, by chance {report.ece_by_chance:.1%})",
    )
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    tidy(axes)


def draw_shares(axes: Axes, shares: dict[str, Share], report: RewardReport) -> None:
    """One bar per group of pairs, from the top; lines for a coin and for the best rule that understands nothing."""
    names, values = list(shares), list(shares.values())
    y = range(len(names))
    middles = [share.value for share in values]
    axes.barh(y, middles, color=[BLUE, *[PALE] * (len(names) - 1)], height=0.65)
    axes.errorbar(middles, y, xerr=whiskers(values), fmt="none", ecolor=DARK, linewidth=1, capsize=2)
    for i, share in enumerate(values):
        axes.annotate(f"{share.value:.0%} of {share.n}", (1.02, i), va="center", fontsize=9, annotation_clip=False)
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1, label="a coin")
    name, best = max(report.baselines.items(), key=lambda item: item[1].right.value)
    axes.axvline(best.right.value, color=RED, linestyle=":", linewidth=1.5, label=f"{name} ({best.right.value:.0%})")
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), title="Share of pairs that are right")
    axes.set_yticks(list(y), names)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, frameon=False, fontsize=9)
    tidy(axes)


def whiskers(shares: list[Share]) -> list[list[float]]:
    """Distances from each share down and up to the ends of its interval, as matplotlib wants them: (2, n)."""
    ends = [(share.value, *share.interval) for share in shares]
    return [[max(0.0, value - low) for value, low, _ in ends], [max(0.0, high - value) for value, _, high in ends]]


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(11)
