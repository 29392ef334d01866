"""What the curves of a run mean, in words and while it runs: what seems wrong, and what to do about it.

Reinforcement learning seldom fails with an error. It fails with numbers that look like numbers. `symptoms.py` knows the
signs; here they become verdicts, each given once. A verdict is a hint to look, not a proof.

    for verdict in health.note(metrics):  # of every log
        print(verdict.text)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from auto_bot_tuner.rollouts.config import OnPolicyConfig
from auto_bot_tuner.rollouts.past import WINDOW, Past
from auto_bot_tuner.rollouts.symptoms import CHECKS
from auto_bot_tuner.utils.settings import settings_of

FROM_A_ROLLOUT = {"response_length"}  # every rollout has it, and its optimiser steps do not
OF_STEPS = {"clip_fraction", "ratio_gap", "entropy", "grad_norm"}


class Verdict(NamedTuple):
    """One finding: `text` says in a sentence or two what it means and what to do."""

    name: str
    text: str


def verdicts(history: Sequence[Mapping[str, float]], config: OnPolicyConfig, method: str) -> list[Verdict]:
    """What is to be said of a run now. Pure; of `history` (see `past.py`) the first and last WINDOW entries do."""
    past = Past(history, config, method)
    found = [(check.__name__, check(past)) for check in CHECKS] if history else []
    return [Verdict(name, with_flags(text, config)) for name, text in found if text is not None]


def with_flags(text: str, config: OnPolicyConfig) -> str:
    """A verdict with the flags of the settings that it names: files say kl_coefficient, commands --kl-coefficient."""
    words = re.findall(r"[a-z]+(?:_[a-z]+)+|\bbeta\b", text)
    config_class: type = type(config)
    flags = {setting.name: setting.flag for setting in settings_of(config_class)}
    named = [flags[word] for word in dict.fromkeys(words) if word in flags]
    return f"{text.removesuffix('.')} ({', '.join(named)})." if named else text


class Health:
    """Watches a run, and says a thing once: again only after it was gone for WINDOW logs."""

    def __init__(self, config: OnPolicyConfig, method: str) -> None:
        self.config, self.method = config, method
        self.history: list[dict[str, float]] = []
        self.quiet: dict[str, int] = {}  # verdict that was given → logs since it last held

    def note(self, metrics: Mapping[str, float]) -> list[Verdict]:
        """Take in the metrics of a log. Returns what is new to say."""
        if self.history and not FROM_A_ROLLOUT & metrics.keys():  # more steps on the last rollout
            self.history[-1] = joined(self.history[-1], metrics)
        else:
            self.history = [*self.history[:WINDOW], *self.history[WINDOW:][1 - WINDOW :], {**metrics, "logs": 1}]
        found = verdicts(self.history, self.config, self.method)
        new = [verdict for verdict in found if verdict.name not in self.quiet]
        held = {verdict.name: 0 for verdict in found}
        aged = {name: logs + 1 for name, logs in self.quiet.items() if logs + 1 < WINDOW}
        self.quiet = aged | held
        return new

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        return {"history": self.history, "quiet": self.quiet}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history, self.quiet = list(state["history"]), dict(state["quiet"])


def joined(entry: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """An entry with one more log of the steps on its rollout: means of what is a mean, the latest of the rest."""
    logs = entry["logs"]
    means = {
        name: (entry[name] * logs + metrics[name]) / (logs + 1) for name in OF_STEPS & entry.keys() & metrics.keys()
    }
    return {**entry, **metrics, **means, "logs": logs + 1}
