r"""How often does one model answer better than another? Outcomes of comparisons → a win rate with its interval.

Two models answer the same prompts and a judge (`judges.py`) decides: 1 where the first is better, 0 where the second
is, ½ for a tie.

    win rate = (wins + ties / 2) / comparisons

Two equal models have 50 %; a difference is *significant* where the 95 % interval does not contain 50 %. Prompts are
what is drawn anew by the bootstrap: several samples of one prompt are averaged first, for they are not independent.

The other number to read beside it is length. Judges, human and artificial, lean to longer answers (Dubois et al.
2404.04475), and training on their judgement makes answers longer: a win rate that grows with the length may be nothing
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from auto_bot_tuner.evaluation.intervals import Share, bootstrap_interval, share_won
from auto_bot_tuner.utils.errors import UserError

# Resampling fewer prompts than this, or prompts that all came out alike, claims too much: three wins of three would be
# 100 % for sure. Wilson's interval stands in; with ties it is wider than it need be, which errs on the safe side.
FEWEST_TO_RESAMPLE = 30


@dataclass(frozen=True)
class WinRate:
    """How the first of two models did against the second."""

    wins: int
    ties: int
    losses: int
    prompts: int
    interval: tuple[float, float]  # 95 %, of the rate

    @property
    def rate(self) -> float:
        return (self.wins + self.ties / 2) / (self.wins + self.ties + self.losses)

    @property
    def significant(self) -> bool:
        low, high = self.interval
        return not low <= 0.5 <= high

    def __str__(self) -> str:
        """
        >>> str(win_rate([1, 1, 0.5, 0]))
        'win rate 62.5% [21.9%, 90.8%], not significant: 2 wins, 1 tie, 1 loss'
        """
        counts = [(self.wins, "win", "wins"), (self.ties, "tie", "ties"), (self.losses, "loss", "losses")]
        told = ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts)
        word = "" if self.significant else ", not significant"
        return f"win rate {self.rate:.1%} [{self.interval[0]:.1%}, {self.interval[1]:.1%}]{word}: {told}"


def win_rate(outcomes: Sequence[float], samples: int = 1, seed: int = 0) -> WinRate:
    """The win rate of the first model.

    Args:
        outcomes: 1, ½ or 0 for each comparison, the `samples` of one prompt next to each other.
        samples: comparisons per prompt.
        seed: of the bootstrap.

    Raises:
        UserError: there is nothing to compare.
    """
    if not outcomes:
        raise UserError("there is no comparison to count: choose another split or more samples")
    by_prompt = [fmean(outcomes[i : i + samples]) for i in range(0, len(outcomes), samples)]
    resampled = len(by_prompt) >= FEWEST_TO_RESAMPLE and len(set(by_prompt)) > 1
    interval = bootstrap_interval(by_prompt, seed=seed) if resampled else Share(sum(by_prompt), len(by_prompt)).interval
    counts = {value: list(outcomes).count(value) for value in (1, 0.5, 0)}
    return WinRate(counts[1], counts[0.5], counts[0], len(by_prompt), interval)


def outcomes_of_scores(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """1 where the first score is higher, 0 where the second is, ½ where they are equal.

    >>> outcomes_of_scores([1.0, 0.0, 2.0], [0.5, 0.5, 2.0])
    [1.0, 0.0, 0.5]
    """
    return [1.0 if a > b else 0.0 if a < b else 0.5 for a, b in zip(first, second, strict=True)]


def longer_wins(outcomes: Sequence[float], first: Sequence[int], second: Sequence[int]) -> Share | None:
    """How often the longer answer won, of the decided comparisons whose lengths differ; None where there is none."""
    leans = [
        (outcome - 0.5) * (a - b)
        for outcome, a, b in zip(outcomes, first, second, strict=True)
        if a != b and outcome != 0.5
    ]
    return share_won(leans) if leans else None
