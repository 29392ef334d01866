"""TRL's reward loss on given scores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import trl

from proof.peers.stubs import stub


def ranking(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | None, centering: float | None
) -> tuple[torch.Tensor, dict[str, Any]]:
    """`RewardTrainer.compute_loss` around a model that gives these scores: (loss, its metrics)."""
    trainer = stub(args=SimpleNamespace(center_rewards_coefficient=centering))
    inputs = {"attention_mask": torch.ones(2)} | ({} if margin is None else {"margin": margin})
    logits = torch.cat([chosen, rejected])[:, None]
    loss = trl.RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs)
    return loss, trainer._metrics["train"]
