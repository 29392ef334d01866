"""Estimators by enumeration: all choices, all resamples, all words."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

from proof.claims import Case
from proof.oracles.arithmetic import mean

Z = 1.96


def pass_at(case: Case) -> list[float]:
    """Of all ways to draw k of n answers of which c are right: how many hold a right one."""
    found = []
    for k, n, c in case["draws"]:
        ways = list(itertools.combinations(range(n), k))
        found.append(float(Fraction(sum(any(i < c for i in way) for way in ways), len(ways))))
    return found


def expected_best(case: Case) -> list[float]:
    """The mean over all choices of k of the n; of equal scores the first is chosen."""
    found = []
    for scores, values in zip(case["scores"], case["values"], strict=True):
        ways = list(itertools.combinations(range(len(scores)), case["k"]))
        found.append(mean([values[max(way, key=lambda i: (scores[i], -i))] for way in ways]))
    return found


def best_of_kl(case: Case) -> list[float]:
    """KL of the best of n against one draw, on a grid of ever more outcomes: exact there, rising to the formula."""
    found = []
    for n in case["sizes"]:
        m = case["outcomes"]
        chances = [((i + 1) / m) ** n - (i / m) ** n for i in range(m)]
        found.append(math.fsum(p * math.log(p * m) for p in chances if p > 0))
    return found


def wilson(case: Case) -> list[tuple[float, float]]:
    """The shares p that a score test does not refuse, found by halving: |k/n - p| ≤ 1.96 sqrt(p (1 - p) / n)."""

    def edge(k: float, n: float, outside: float) -> float:
        inside = k / n
        if inside == outside:
            return outside
        for _ in range(200):
            middle = (inside + outside) / 2
            if abs(k / n - middle) <= Z * math.sqrt(middle * (1 - middle) / n):
                inside = middle
            else:
                outside = middle
        return inside

    return [(edge(k, n, 0.0), edge(k, n, 1.0)) for k, n in case["shares"]]


def clustered(case: Case) -> float:
    """Kish's effective number from the variance between clusters, by its definition."""
    marks, clusters = case["marks"], case["clusters"]
    p, names = mean(marks), sorted(set(clusters))
    sums = [sum(m - p for m, c in zip(marks, clusters, strict=True) if c == name) for name in names]
    variance = len(names) / (len(names) - 1) * sum(s * s for s in sums) / len(marks) ** 2
    return min(float(len(marks)), p * (1 - p) / variance)


def bootstrap(case: Case) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the mean over all n^n resamples."""
    values = case["values"]
    means = sorted(mean(draw) for draw in itertools.product(values, repeat=len(values)))
    places = [share * (len(means) - 1) for share in (0.025, 0.975)]
    low, high = (means[int(place)] + (place % 1) * (means[math.ceil(place)] - means[int(place)]) for place in places)
    return low, high


def win_rate(case: Case) -> float:
    points = [1.0 if a > b else 0.0 if a < b else 0.5 for a, b in zip(case["first"], case["second"], strict=True)]
    return mean(points)


def diversity(case: Case) -> dict[str, float]:
    """distinct-n: different n-grams of words over all n-grams, of all texts together."""
    found = {}
    for n in (1, 2):
        grams = [tuple(text.split()[i : i + n]) for text in case["texts"] for i in range(len(text.split()) - n + 1)]
        found[f"distinct_{n}"] = len(set(grams)) / len(grams)
    return found
