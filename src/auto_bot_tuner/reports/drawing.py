"""Points → the geometry of a small chart; `templates/chart.svg` draws it.

Inline SVG of our own, because a page with a dozen charts must be written in a moment at the end of every run: colours
are the page's (light and dark), letters stay letters, and every point says its number when touched, without a script.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from auto_bot_tuner.reports.numbers import short, shown

WIDTH, HEIGHT = 340, 176
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
MOST_POINTS = 300  # of a line: more than a small chart can show
MOST_BANDS = 60
SMOOTH_FROM = 30  # logs: with fewer, every point can be seen
FALLS = 20  # times: what falls further is drawn on a logarithmic axis
AS_SET = ("learning_rate", "kl_coefficient", "epoch")  # no noise to smooth away

Points = Sequence[tuple[float, float]]


class Line(NamedTuple):
    """One curve as it was logged."""

    label: str
    points: Points
    style: str  # a class of the style sheet: train, eval, or run-1 …
    has_dots: bool = False


class Drawn(NamedTuple):
    style: str
    path: str
    pale: str  # the path of every log, where `path` is their running mean
    dots: list[tuple[float, float, str]]


class Tick(NamedTuple):
    at: float
    label: str
    anchor: str = "middle"


class Plot(NamedTuple):
    """All that the template draws, in units of the picture."""

    title: str
    drawn: list[Drawn]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    reference: Tick | None
    bands: list[tuple[float, float, str]]  # left, width, what it says when touched
    summary: str  # for who cannot see it


def plot(name: str, title: str, lines: Sequence[Line], reference: tuple[float, str] | None = None) -> Plot | None:
    """The chart of a metric; None where nothing was logged."""
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    values = [value for line in lines for _, value in line.points]
    low, high = min(values), max(values)
    is_log = low > 0 and wants_log(name, lines, high / low)
    if reference is not None and is_log:
        reference = reference if low <= reference[0] <= high else None
    elif reference is not None:
        near = 0.6 * (high - low)  # a landmark far away would press the curve flat
        if low - near <= reference[0] <= high + near:
            low, high = min(low, reference[0]), max(high, reference[0])
        else:
            reference = None
    scale, y_ticks = vertical(name, low, high, is_log)
    # From 0 where the run began there, so that charts with and without a first evaluation stand alike.
    first, last = (f(step for line in lines for step, _ in line.points) for f in (min, max))
    first = 0 if last > 1 and first <= 1 else first
    across = linear(first, last, LEFT, WIDTH - RIGHT)
    return Plot(
        title=f"{title}, log scale" if is_log else title,
        drawn=[draw(name, line, across, scale) for line in lines],
        x_ticks=steps_axis(first, last, across),
        y_ticks=y_ticks,
        reference=Tick(scale(reference[0]), reference[1]) if reference else None,
        bands=touch_bands(name, lines, across),
        summary=summary(name, lines),
    )


def wants_log(name: str, lines: Sequence[Line], ratio: float) -> bool:
    """Whether a linear axis would make a flat line of the second half of what fell far, or of all but a spike."""
    if name == "grad_norm":
        return ratio > 200
    return name in ("loss", "perplexity") and any(line.points[0][1] > FALLS * line.points[-1][1] for line in lines)


def linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: round(start + (value - low) / span * (end - start), 1)


def vertical(name: str, low: float, high: float, is_log: bool) -> tuple[Callable[[float], float], list[Tick]]:
    """The y axis: from value to place, and where its numbers stand."""
    if is_log:
        room = 0.04 * math.log10(high / low)
        place = linear(math.log10(low) - room, math.log10(high) + room, HEIGHT - BOTTOM, TOP)
        ticks = log_ticks(low, high)
        return lambda value: place(math.log10(value)), [Tick(place(math.log10(tick)), short(tick)) for tick in ticks]
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):  # level: at the foot where it is 0, else half way up
        low, high = (0.0, 1.0) if high == 0 else sorted((0.0, 2 * high))
    room = 0.06 * (high - low)
    place = linear(low - room, high + room, HEIGHT - BOTTOM, TOP)
    ticks = nice_ticks(low - room, high + room)
    is_share = shown(name, 1.0).endswith("%")
    return place, [Tick(place(value), f"{100 * value:.4g}%" if is_share else short(value)) for value in ticks]


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers inside a range.

    >>> nice_ticks(0.07, 1.71)
    [0.5, 1.0, 1.5]
    """
    rough = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside a range; where there are few, their halves and fifths too.

    >>> log_ticks(0.07, 3.1), log_ticks(3, 4e6)
    ([0.1, 0.2, 0.5, 1.0, 2.0], [10.0, 100.0, 1000.0, 10000.0, 100000.0, 1000000.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 100 else (1, 3) if high / low < 1000 else (1,)
    found = [float(f"{step * 10.0**power:.1g}") for power in powers for step in steps]
    found = [tick for tick in found if low * 0.999 <= tick <= high * 1.001]
    return found[:: max(1, len(found) // 5)] if steps == (1,) else found


def steps_axis(first: float, last: float, across: Callable[[float], float]) -> list[Tick]:
    if first == last:
        return [Tick(across(first), f"step {first:g}", "start")]
    inner = [value for value in nice_ticks(first, last, 3) if 0.12 < (value - first) / (last - first) < 0.7]
    ends = Tick(across(first), f"{first:,.0f}", "start"), Tick(across(last), f"step {last:,.0f}", "end")
    return [ends[0], *(Tick(across(value), f"{value:,.0f}") for value in inner), ends[1]]


def draw(name: str, line: Line, across: Callable[[float], float], scale: Callable[[float], float]) -> Drawn:
    dots = [(across(step), scale(value), f"step {step:g}: {shown(name, value)}") for step, value in line.points]
    if line.has_dots:
        return Drawn(line.style, path_of(line.points, across, scale), "", dots[:: max(1, len(dots) // MOST_BANDS)])
    every = path_of(thinned(line.points), across, scale)
    if len(line.points) < SMOOTH_FROM or name in AS_SET:
        return Drawn(line.style, every, "", dots if len(dots) == 1 else [])
    return Drawn(line.style, path_of(thinned(smoothed(line.points)), across, scale), every, [])


def path_of(points: Points, across: Callable[[float], float], scale: Callable[[float], float]) -> str:
    return "M" + "L".join(f"{across(step):g},{scale(value):g}" for step, value in points)


def smoothed(points: Points) -> Points:
    """Means over a tenth of the neighbours, before and after alike: a mean of the past alone would come late."""
    half = max(2, len(points) // 20)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    means = []
    for i, (step, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)  # as far to both sides, so that the ends do not lean inwards
        means.append((step, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)))
    return means


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most so many points: of each stretch its lowest and its highest, so that no spike is lost."""
    if len(points) <= most:
        return points
    width = 2 * len(points) / most
    kept: list[tuple[float, float]] = []
    for i in range(most // 2):
        part = points[int(i * width) : int((i + 1) * width)]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return [points[0], *kept, points[-1]]


def touch_bands(name: str, lines: Sequence[Line], across: Callable[[float], float]) -> list[tuple[float, float, str]]:
    """Stripes from side to side that say the numbers of their step."""
    longest = max(lines, key=lambda line: len(line.points))
    steps = [step for step, _ in longest.points[:: math.ceil(len(longest.points) / MOST_BANDS)]]
    places = [across(step) for step in steps]
    edges = [LEFT, *((a + b) / 2 for a, b in itertools.pairwise(places)), WIDTH - RIGHT]
    tables = [(line.label, dict(line.points)) for line in lines]
    bands = []
    for i, step in enumerate(steps):
        said = [f"{label} {shown(name, table[step])}" for label, table in tables if step in table]
        bands.append((round(edges[i], 1), round(edges[i + 1] - edges[i], 1), f"step {step:g}: {', '.join(said)}"))
    return bands


def summary(name: str, lines: Sequence[Line]) -> str:
    return "; ".join(
        f"{line.label} from {shown(name, line.points[0][1])} at step {line.points[0][0]:g} "
        f"to {shown(name, line.points[-1][1])} at step {line.points[-1][0]:g}"
        for line in lines
    )
