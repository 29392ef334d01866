"""What TRL's loss methods look for in `self`: for one process, without a model."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch


class LikeAccelerate:
    """The part of Accelerate that TRL's loss methods call."""

    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = True

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return values

    gather_for_metrics = gather

    def reduce(self, values: torch.Tensor, reduction: str) -> torch.Tensor:
        return values


def stub(**settings: Any) -> Any:
    """A trainer that is only its settings; what a method logs is in `_metrics["train"]`."""
    return SimpleNamespace(
        accelerator=LikeAccelerate(),
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        _tp_size=1,
        _total_train_tokens=0,
        _metrics={"train": defaultdict(list)},
        **settings,
    )
