"""Numbers that follow from the settings and the data: how many steps, how large, how fast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from auto_bot_tuner.training.config import TrainingConfig
from auto_bot_tuner.training.processes import Processes
from auto_bot_tuner.utils import saving

if TYPE_CHECKING:
    from auto_bot_tuner.training.state import TrainingState


class Schedule(Processes):
    """A trainer's steps, counted before the first one: a resumed run must come to the same numbers."""

    config: TrainingConfig
    state: TrainingState
    lengths: list[int]

    @property
    def is_adapted(self) -> bool:
        """Whether an adapter is trained, on frozen weights."""
        return saving.is_adapted(self.model)

    @property
    def rows_per_step(self) -> int:
        return self.config.batch_size * self.config.gradient_accumulation_steps * self.processes

    @property
    def steps_per_epoch(self) -> int:
        # The last, shorter step of an epoch is taken too, and weighs what it holds.
        return math.ceil(len(self.lengths) / self.rows_per_step)

    @property
    def total_steps(self) -> int:
        by_epochs = math.ceil(self.config.num_epochs * self.steps_per_epoch)
        return min(by_epochs, self.config.max_steps) if self.config.max_steps else by_epochs

    @property
    def token_budget(self) -> int:
        if self.config.micro_batch_tokens:
            return self.config.micro_batch_tokens
        # On a CPU small passes stay in the cache. On a GPU large ones keep it busy, up to what the user allowed.
        return 2048 if self.accelerator.device.type == "cpu" else self.config.batch_size * max(self.lengths)

    @property
    def peak_learning_rate(self) -> float:
        """As set, else by what is trained."""
        if self.config.learning_rate is not None:
            return self.config.learning_rate
        return self.config.LORA_LEARNING_RATE if self.is_adapted else self.config.FULL_LEARNING_RATE

    def is_due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0
