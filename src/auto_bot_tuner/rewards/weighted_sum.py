"""Several rewards as one: their weighted sum, each part of it still to be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from auto_bot_tuner.rewards.source import Attempt, RewardSource
from auto_bot_tuner.rewards.verifiers import asked, shortened
from auto_bot_tuner.utils.errors import UsageError, UserError


class WeightedSum:
    """score = Σ weight · source. Logs show each source unweighted, by its name.

    A policy that games one part of a sum shows it there first: the total rises, and one component does all of it. A
    weight of 0 watches a source without paying for it. It is a reward source itself.
    """

    def __init__(self, parts: Sequence[tuple[float, RewardSource]]) -> None:
        """
        Raises:
            UsageError: there is no part.
        """
        if not parts:
            raise UsageError("no reward is named, so nothing could be learnt: give one, such as --reward exact_match")
        self.parts = list(parts)
        self.names = distinct([source.name for _, source in parts])  # of the components

    @property
    def name(self) -> str:
        weights = (f"{weight:g} * " if weight != 1 else "" for weight, _ in self.parts)
        return " + ".join(weight + name for weight, name in zip(weights, self.names, strict=True))

    def score(self, attempts: Sequence[Attempt]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(total (N,), component by name (N,), each unweighted), float32 on the CPU.

        Raises:
            UserError: a source gives another number of scores than there are attempts, or one that is not finite.
        """
        total = torch.zeros(len(attempts))  # (N,)
        components = {}
        for name, (weight, source) in zip(self.names, self.parts, strict=True):
            scores = torch.tensor([float(score) for score in source(attempts)], dtype=torch.float32)  # (N,)
            check(name, scores, attempts)
            components[name] = scores
            total += weight * scores
        return total, components

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        """The totals alone."""
        return [float(score) for score in self.score(attempts)[0]]


def check(name: str, scores: torch.Tensor, attempts: Sequence[Attempt]) -> None:
    if len(scores) != len(attempts):
        raise UserError(f"reward {name} gave {len(scores)} scores for {len(attempts)} responses; it must give one each")
    if not bool(scores.isfinite().all()):
        first = int((~scores.isfinite()).nonzero()[0])
        raise UserError(
            f"reward {name} gave {float(scores[first])} for the response {shortened(attempts[first].response)} to "
            f"{shortened(asked(attempts[first]))}: a reward must be a finite number"
        )


def distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered from the second of the same: no component hides another in a log.

    >>> distinct(["gold", "ended", "gold"])
    ['gold', 'ended', 'gold (2)']
    """
    seen, labels = Counter[str](), list[str]()
    for name in names:
        seen[name] += 1
        labels.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return labels
