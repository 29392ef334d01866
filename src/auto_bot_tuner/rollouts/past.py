"""What the checks of `symptoms.py` look at: the figures of a run so far, and the settings that explain them.

A history has one entry for each rollout, or for the few that came between two logs: their mean figures
(`statistics.rollout_metrics`), those of the optimiser steps that used them (`clip_fraction`, `ratio_gap`, `entropy`,
`grad_norm`), and `skipped_steps`, counted from the start of the run. The first entry begins with the run's first step,
alone in it while `logs` is 1. A figure that a run does not have is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from auto_bot_tuner.rollouts.config import OnPolicyConfig

WINDOW = 5  # entries whose mean is judged: single rollouts swing, and five are soon written


class Past(NamedTuple):
    """What a check looks at. A figure that is missing is nan, with which no comparison holds: no verdict."""

    history: Sequence[Mapping[str, float]]
    config: OnPolicyConfig
    method: str  # ppo or grpo

    def last(self, name: str) -> list[float]:
        """The figure in the last entries, up to WINDOW, that have it."""
        return figures(self.history[-WINDOW:], name)

    def recent(self, name: str) -> float:
        """Its mean over these."""
        return mean(self.last(name))

    def start(self, name: str) -> float:
        """Its mean over the first WINDOW entries; nan while some of these are also the last ones."""
        return mean(figures(self.history[:WINDOW], name)) if self.is_long else math.nan

    @property
    def is_long(self) -> bool:
        """Whether there is a start and, apart from it, a present."""
        return len(self.history) >= 2 * WINDOW

    @property
    def prompts(self) -> int:
        """Independent samples in a rollout (of one process, which errs on the side of silence)."""
        return self.config.batch_size * self.config.gradient_accumulation_steps * self.config.minibatches

    @property
    def steps(self) -> int:
        """Optimiser steps that use one rollout."""
        return self.config.epochs_per_rollout * self.config.minibatches

    @property
    def leash(self) -> str:
        """The setting that holds the policy to its reference."""
        return "kl_coefficient" if self.method == "ppo" else "beta"

    def reward_trend(self) -> int:
        """1 where the reward rose since the start by more than chance explains, -1 where it fell, else 0."""
        # Three standard errors of the difference of two means over WINDOW rollouts each.
        noise = 3 * self.recent("reward_std") * math.sqrt(2 / (self.prompts * WINDOW))
        change = self.recent("reward") - self.start("reward")
        return int(change > noise) - int(change < -noise)


def figures(entries: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [entry[name] for entry in entries if name in entry] or [math.nan]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
