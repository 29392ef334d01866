"""What a response is worth, and who says so: one interface for reward models, verifiers and functions of yours.

A *source* looks at attempts and returns one number for each. That is all that PPO, GRPO, best-of-n and the evaluation
know of rewards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from auto_bot_tuner.data.chat_template import Conversation


@dataclass(frozen=True)
class Attempt:
    """One response to one prompt, as a reward source sees it."""

    prompt: Conversation  # messages, ending with a user turn
    response: str  # without its stop token
    ended: bool  # by itself; False: cut off by the limit
    row: Mapping[str, Any]  # the data set's row: reference answer, task, whatever a verifier needs
    prompt_ids: list[int]
    response_ids: list[int]  # with the stop token, where it came


class RewardSource(Protocol):
    """Attempts in, one finite number each out."""

    name: str  # in logs and tables

    def __call__(self, attempts: Sequence[Attempt]) -> Sequence[float]: ...
