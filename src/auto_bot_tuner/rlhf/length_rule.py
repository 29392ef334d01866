"""What judged rows say before any model reads them: the mean score, and how far "the longer one is better" gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

LENGTH_ROWS = 5000  # at most twice as many are measured


def mean_score(dataset: Any) -> float:
    """What people gave on average; each prompt weighs once."""
    return fmean(fmean(dataset.group(row).scores) for row in range(len(dataset)))


def share_longer_is_better(dataset: Any) -> float:
    """How often the longer response of a pair is the better one, of rows spread over the data; each prompt weighs once.

    The rule to beat: people, and models that judge, lean to length (Singhal et al. 2023, 2310.03716).
    """
    shares = []
    for row in range(0, len(dataset), max(1, len(dataset) // LENGTH_ROWS)):
        group = dataset.group(row)
        lengths = [len(ids) for ids in group.input_ids]
        wins = [
            (lengths[i] > lengths[j]) + 0.5 * (lengths[i] == lengths[j])  # a tie is half right
            for i, j in judged_pairs(group.scores)
        ]
        shares += [fmean(wins)] if wins else []
    return fmean(shares) if shares else 0.5


def judged_pairs(scores: Sequence[float]) -> Iterator[tuple[int, int]]:
    """(better, worse) of responses that stand best first; equal numbers say nothing."""
    for i in range(len(scores)):
        yield from ((i, j) for j in range(i + 1, len(scores)) if scores[i] != scores[j])
