"""What the curves of a run mean, in words and while it runs: what seems wrong, and what to do about it.

Reinforcement learning seldom fails with an error. It fails with numbers that look like numbers. `symptoms.py` knows the
signs; here they become verdicts, each given once. A verdict is a hint to look, not a proof.

    for verdict in health.note(metrics_of_the_rollout):
        print(verdict.text)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from auto_bot_tuner.rollouts.config import OnPolicyConfig
from auto_bot_tuner.rollouts.symptoms import CHECKS, WINDOW, Past


class Verdict(NamedTuple):
    """One finding: `text` says in a sentence or two what it means and what to do."""

    name: str
    text: str


def verdicts(history: Sequence[Mapping[str, float]], config: OnPolicyConfig, method: str) -> list[Verdict]:
    """What is to be said of a run after its last rollout. Pure; `history` may be cut to its first and last WINDOW."""
    past = Past(history, config, method)
    found = [(check.__name__, check(past)) for check in CHECKS] if history else []
    return [Verdict(name, text) for name, text in found if text is not None]


class Health:
    """Watches a run, and says a thing once: again only after it was gone for WINDOW rollouts."""

    def __init__(self, config: OnPolicyConfig, method: str) -> None:
        self.config, self.method = config, method
        self.history: list[dict[str, float]] = []
        self.quiet: dict[str, int] = {}  # verdict that was given → rollouts since it last held

    def note(self, metrics: Mapping[str, float]) -> list[Verdict]:
        """Take in a rollout's figures. Returns what is new to say."""
        self.history = [*self.history[:WINDOW], *self.history[WINDOW:][1 - WINDOW :], dict(metrics)]
        found = verdicts(self.history, self.config, self.method)
        new = [verdict for verdict in found if verdict.name not in self.quiet]
        held = {verdict.name: 0 for verdict in found}
        aged = {name: rollouts + 1 for name, rollouts in self.quiet.items() if rollouts + 1 < WINDOW}
        self.quiet = aged | held
        return new

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        return {"history": self.history, "quiet": self.quiet}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history, self.quiet = list(state["history"]), dict(state["quiet"])
