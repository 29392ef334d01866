r"""How sure can one be of a number that was measured on n things? Intervals that hold the true value with 95 %
probability.

A **share** of k out of n has the Wilson interval (1927), good for small n and for shares near 0 or 1, where the
textbook p ± 1.96 sqrt(p(1-p)/n) leaves [0, 1]:

    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n),   z = 1.96

It takes the n things to be independent. Where several come from one prompt they are not: ten pairs of the same prompt
are often all right or all wrong, and say hardly more than one. Then the *effective* number of things stands for n
(Kish 1965): as many independent ones as would leave the share as unsure as the clusters show it to be,

    n_eff = p(1-p) / v,   v = C/(C-1) · Σ_c (Σ_{i in c} (x_i - p))² / n²   over C clusters

**Any other number** has the percentile bootstrap (Efron 1979): draw n of the n things with replacement, compute the
number again, do it thousands of times, and leave out 2.5 % at either end. The n things must be independent: prompts,
not the several answers to one prompt.

Two models whose intervals overlap widely have not been told apart: ask more prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Z_95 = 1.96
# Resampled numbers in memory at once.
CHUNK = 2_000_000


@dataclass(frozen=True)
class Share:
    """k of n, with its 95 % Wilson interval. A tie may count as half a success, so k need not be whole."""

    k: float
    n: int
    effective: float | None = field(default=None, repr=False)  # n_eff, where the n things come in clusters

    @property
    def value(self) -> float:
        return self.k / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """
        >>> [round(bound, 3) for bound in Share(0, 10).interval]
        [0.0, 0.278]
        """
        n = self.n if self.effective is None else self.effective
        p, shrink = self.value, 1 + Z_95**2 / n
        centre = (p + Z_95**2 / (2 * n)) / shrink
        half = Z_95 * (p * (1 - p) / n + Z_95**2 / (4 * n**2)) ** 0.5 / shrink
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        """
        >>> str(Share(9, 12))
        ' 75.0%  9/12  [46.8%, 91.1%]'
        """
        low, high = self.interval
        return f"{self.value:6.1%}  {self.k:g}/{self.n}  [{low:.1%}, {high:.1%}]"


def share_won(margins: Sequence[float], clusters: Sequence[Hashable] = ()) -> Share:
    """The share of positive margins; one of exactly zero is a tie and counts half, as if a coin had decided.

    Args:
        clusters: which prompt, say, each margin comes from. Empty: each from one of its own.

    >>> share_won([2.0, -1.0, 0.0, 0.5])
    Share(k=2.5, n=4)
    """
    wins, ties = sum(margin > 0 for margin in margins), sum(margin == 0 for margin in margins)
    marks = [0.5 + 0.5 * ((margin > 0) - (margin < 0)) for margin in margins]
    return Share(wins + ties / 2 if ties else wins, len(margins), effective_number(marks, clusters))


def effective_number(marks: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """n_eff of n marks between 0 and 1; None where every cluster holds one: then it is n.

    Never above n, which clusters of less than chance's likeness would give; and where all marks are alike, so that
    nothing can be seen of their likeness, the number of clusters.
    """
    number = len(set(clusters))
    if not clusters or number == len(marks):
        return None
    p = sum(marks) / len(marks)
    deviations: dict[Hashable, float] = {}
    for mark, cluster in zip(marks, clusters, strict=True):
        deviations[cluster] = deviations.get(cluster, 0.0) + mark - p
    squares = sum(deviation**2 for deviation in deviations.values())
    if number == 1 or squares == 0 or p in (0, 1):
        return float(number)
    variance = number / (number - 1) * squares / len(marks) ** 2
    return min(float(len(marks)), p * (1 - p) / variance)


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[..., Any] = np.mean,
    seed: int = 0,
    resamples: int = 10_000,
) -> tuple[float, float]:
    """The 95 % percentile interval of `statistic(values)`.

    `statistic` is called as numpy's own are, `statistic(array, axis=-1)`, on many resamples at once: array (R, n) →
    (R,). The same seed gives the same interval. Where all values are equal it has no width, however few they are.
    """
    data, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)  # (n,)
    step = max(1, CHUNK // len(data))
    parts = [
        statistic(data[rng.integers(len(data), size=(min(step, resamples - start), len(data)))], axis=-1)
        for start in range(0, resamples, step)
    ]
    low, high = np.quantile(np.concatenate(parts), (0.025, 0.975))
    return float(low), float(high)
