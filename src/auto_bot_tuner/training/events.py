"""What a run tells the world: one event at a time, to plain callables.

    def print_loss(event: Event) -> None:
        if event.name == "log":
            print(event.step, event.metrics["loss"])

    SFTTrainer(…, callbacks=[print_loss])

The project's own reporters (metrics.jsonl, TensorBoard, the progress line) are callables of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer

EventName = Literal["start", "step", "log", "evaluate", "samples", "token_views", "note", "save", "end"]


class Event(NamedTuple):
    """Something that happened after `step` finished optimiser steps, on the main process."""

    name: EventName
    step: int
    metrics: dict[str, Any]
    trainer: Trainer


Callback = Callable[[Event], None]
