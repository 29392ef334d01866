"""curves.png beside a model card: the loss, and what tells most of the method, over the steps of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auto_bot_tuner.utils.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What to look at, by method; the most telling first. The evaluation's points are drawn over the training's line.
TELLING = {
    "sft": ("loss", "accuracy"),
    "reward": ("loss", "accuracy", "reward_margin"),
    "dpo": ("loss", "accuracy", "reward_margin", "kl"),
    "ppo": ("reward", "kl", "explained_variance", "response_length"),
    "grpo": ("reward", "groups_without_spread", "kl", "response_length"),
}
TITLES = {"kl": "KL to the reference, nats", "response_length": "tokens per response"}
BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#718096"


def draw_curves(metrics: Sequence[Mapping[str, Any]], method: str, file: Path) -> bool:
    """Draw the telling figures of a run. Returns whether there was anything to draw.

    Raises:
        UserError: the file cannot be written.
    """
    known = {name.removeprefix("eval_") for line in metrics for name in line}
    shown = [name for name in TELLING.get(method, ("loss",)) if name in known]
    if not shown:
        return False
    from auto_bot_tuner.evaluation.charts import new_figure  # it imports numpy, which only a run pays

    figure = new_figure(3.6 * len(shown), 2.8)
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        draw_curve(axes, metrics, name)
    try:
        figure.savefig(file, dpi=120, metadata={"Software": None})
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from error
    return True


def draw_curve(axes: Axes, metrics: Sequence[Mapping[str, Any]], name: str) -> None:
    """One figure over the steps, as logged in training and as evaluated."""
    for key, colour, style, label in ((name, BLUE, "-", "training"), (f"eval_{name}", ORANGE, "o:", "evaluation")):
        points = [(line["step"], line[key]) for line in metrics if line.get(key) is not None]
        if points:
            style = "o" if len(points) == 1 else style  # a line needs two
            axes.plot(*zip(*points, strict=True), style, color=colour, linewidth=1.4, markersize=4, label=label)
    axes.set(title=TITLES.get(name, name.replace("_", " ")), xlabel="step")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GREY, alpha=0.2, linewidth=0.6)
    axes.title.set_fontsize(11)
    if len(axes.lines) > 1:
        axes.legend(frameon=False, fontsize=8)
