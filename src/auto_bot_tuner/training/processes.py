"""One process among several: who it is, and what all of them agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from accelerate import Accelerator
from torch import nn

from auto_bot_tuner.training import engine, sharding
from auto_bot_tuner.utils.errors import UserError


class Processes:
    """What a trainer knows of the other processes. Alone it is the main one, and agrees with itself."""

    accelerator: Accelerator
    model: nn.Module

    @property
    def processes(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        return engine.total(self.accelerator, list(values))

    def on_any_process(self, claim: bool) -> bool:
        return self.total([float(claim)])[0] > 0

    def whole_weights(self) -> AbstractContextManager[None]:
        """Meanwhile a process may compute with all weights and wait for no other. Every process must take part."""
        return sharding.gathered(self.model)

    def on_main(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the main process computes alone, with whole weights; None elsewhere. Every process must call it.

        Raises:
            whatever `function` raises; on the other processes UserError, so that none waits for one that is gone.
        """
        result, error = None, None
        with self.whole_weights():
            if self.is_main:
                try:
                    result = function(*arguments)
                except Exception as caught:
                    error = caught
            # Inside of the block, for nobody goes on to the next exchange while the main process still computes.
            has_failed = self.on_any_process(error is not None)
        if error is not None:
            raise error
        if has_failed:
            raise UserError("the main process could not go on: see what it says")
        return result
