r"""What a policy gains, drawn against how far it went for it: as a picture, and as letters on a terminal.

The horizontal axis is sqrt(KL(policy || reference)): near the reference the divergence grows with the square of the
weights' movement, so that its root is a distance, and curves begin straight (Bai et al. 2022, 2204.05862, §4.3; Gao et
al. 2022, 2210.10760, fit theirs in it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from auto_bot_tuner.evaluation.charts import BLUE, DARK, GREY, RED, new_figure, save_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = (RED, BLUE, "#2f855a", "#805ad5", DARK, GREY)
MARKERS = "os^Dv*"
X_LABEL = "√KL from the reference   (KL in nats a response)"


class Line(NamedTuple):
    """A way away from the reference: of one policy in training, or of policies that are ever further from it."""

    label: str
    kl: list[float]  # nats a response; an estimate that came out below 0 counts as 0
    values: list[float]

    @property
    def distances(self) -> list[float]:
        return [math.sqrt(max(0.0, kl)) for kl in self.kl]


def draw_against_divergence(panels: Mapping[str, Sequence[Line]], file: str | Path, title: str = "") -> None:
    """One panel for each name, all on the same scale, every label with the same colour throughout; the suffix of
    `file` says svg, png or pdf.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib import rc_context

    labels = list(dict.fromkeys(line.label for lines in panels.values() for line in lines))
    figure = new_figure(5.2 * len(panels) + 0.6, 4.4)
    every_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, lines) in zip(every_axes, panels.items(), strict=True):
        draw_lines(axes, lines, labels)
        axes.set(xlabel=X_LABEL, title=name)
        tidy(axes)
    every_axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle(title)
    with rc_context({"svg.fonttype": "none"}):  # letters stay letters: smaller, and to be searched
        save_figure(figure, file)


def draw_lines(axes: Axes, lines: Sequence[Line], labels: Sequence[str]) -> None:
    for line in lines:
        look = labels.index(line.label)
        color, marker = COLORS[look % len(COLORS)], MARKERS[look % len(MARKERS)]
        axes.plot(line.distances, line.values, color=color, marker=marker, markersize=4, label=line.label)
    axes.set_xlim(left=0)
    axes.grid(color="#e2e8f0", linewidth=0.6)


def text_chart(lines: Sequence[Line], title: str, width: int = 60, height: int = 12) -> str:
    """The same on a terminal: each point is the letter of its line, and + where several lines meet."""
    xs = [x for line in lines for x in line.distances]
    ys = [y for line in lines for y in line.values]
    low, high, right = min(ys), max(ys), max(xs) or 1.0
    height_of = (high - low) or 1.0
    cells: dict[tuple[int, int], str] = {}
    letters = [chr(ord("a") + i) for i in range(len(lines))]
    for letter, line in zip(letters, lines, strict=True):
        for x, y in zip(line.distances, line.values, strict=True):
            place = round((high - y) / height_of * (height - 1)), round(x / right * (width - 1))
            cells[place] = letter if cells.get(place, letter) == letter else "+"
    rows = ["".join(cells.get((row, column), " ") for column in range(width)).rstrip() for row in range(height)]
    marks = [f"{high:.2f}", *[""] * (height - 2), f"{low:.2f}"]
    return "\n".join(
        [
            f"{title}   ({', '.join(f'{letter} {line.label}' for letter, line in zip(letters, lines, strict=True))})",
            *(f"{mark:>7} │{row}" for mark, row in zip(marks, rows, strict=True)),
            f"{'':7} └{'─' * width}",
            f"{'':7}  0{f'√KL {right:.2f}':>{width - 1}}",
        ]
    )
