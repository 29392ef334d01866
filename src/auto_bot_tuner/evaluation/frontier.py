"""How much reward for how much divergence: best-of-n and trained policies as points of one picture.

A run with more reward *and* more divergence has not shown that it is better, only that it went further. Two methods are
compared at the same distance from the reference. The yardstick is best-of-n, which needs no training and whose
divergence is known: `best_of.py`. Gao et al. 2022 (2210.10760) measure both in this way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

from auto_bot_tuner.evaluation.best_of import BestOf, best_of_kl, expected_best


@dataclass(frozen=True)
class FrontierPoint:
    """A policy, or a way to sample from one: what it is worth and how far it is from the start."""

    method: Literal["best-of", "ppo"]
    setting: float  # n, or the price of a nat
    kl: float  # nats a response; of best-of-n at most so much
    reward: float  # mean over the prompts
    reward_error: float  # its standard error
    gold: float | None  # mean gold score, where the rows have one

    @property
    def name(self) -> str:
        return f"best of {self.setting:g}" if self.method == "best-of" else f"PPO, beta {self.setting:g}"

    @property
    def sqrt_kl(self) -> float:
        return math.sqrt(max(0.0, self.kl))

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"sqrt_kl": self.sqrt_kl}


def best_of_points(written: BestOf, sizes: Sequence[int]) -> list[FrontierPoint]:
    """A point for each n of `sizes`, all from the same responses: as many per prompt as the largest n, or more.

    Raises:
        ValueError: an n is not from 1 to the number of responses to a prompt.
    """
    gold = written.components.get("gold")
    points = []
    for n in sizes:
        rewards = expected_best(written.scores, n)  # (M,)
        error = float(rewards.std(correction=0)) / math.sqrt(max(1, len(rewards) - 1))
        of_gold = None if gold is None else float(expected_best(written.scores, n, gold).mean())
        points.append(FrontierPoint("best-of", n, best_of_kl(n), float(rewards.mean()), error, of_gold))
    return points


def point_of_run(beta: float, evaluation: Mapping[str, float], prompts: int) -> FrontierPoint:
    """The point of a trained policy, from a run's last evaluation: one response to each of so many prompts."""
    error = evaluation["eval_reward_std"] / math.sqrt(max(1, prompts - 1))
    return FrontierPoint(
        "ppo", beta, evaluation["eval_kl"], evaluation["eval_reward"], error, evaluation.get("eval_reward_gold")
    )


def undominated(points: Sequence[FrontierPoint]) -> list[bool]:
    """Of each point, whether it is on the frontier: no other has as much reward for less divergence, or more for no
    more.

    Of points that are equal in both all are on it.
    """
    return [
        not any(
            other.kl <= one.kl and other.reward >= one.reward and (other.kl, other.reward) != (one.kl, one.reward)
            for other in points
        )
        for one in points
    ]


def reward_at(points: Sequence[FrontierPoint], kl: float) -> float | None:
    """The reward that the curve through `points` has at this divergence, straight in sqrt(KL) between two of them.

    None where the curve does not reach so far, or begins further away.
    """
    distance = math.sqrt(max(0.0, kl))
    for near, far in pairwise(sorted(points, key=lambda one: one.kl)):
        if near.sqrt_kl <= distance <= far.sqrt_kl:
            share = (distance - near.sqrt_kl) / ((far.sqrt_kl - near.sqrt_kl) or 1.0)
            return near.reward + share * (far.reward - near.reward)
    return None
