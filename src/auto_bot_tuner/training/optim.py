"""AdamW and its learning rate.

AdamW (Loshchilov and Hutter, 1711.05101): step along the averaged gradient, each weight divided by the typical size
of its own gradient, with weight decay taken *outside* of that division.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from auto_bot_tuner.training.config import TrainingConfig


def build_optimizer(named_parameters: Iterable[tuple[str, nn.Parameter]], config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with decay on matrices only.

    Decay pulls weights to zero, which simplifies a matrix but switches a norm's scale off. Norms and biases are told
    by their shape: names differ between architectures (`ln_1`, `input_layernorm`), one dimension is one dimension.
    """
    trained = [p for _, p in named_parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,  # set before every step by `learning_rate_at`
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        # One pass over the weights instead of a dozen; every device that this runs on has it except Apple's.
        fused=all(p.device.type in ("cpu", "cuda") for p in trained),
    )


def learning_rate_at(step: int, total_steps: int, warmup: float, schedule: str) -> float:
    """The factor of the peak learning rate in step 0, 1, …: pure, so a resumed run needs no scheduler state.

    Warm-up over w steps starts at 1/(w+1), not at 0: a first step that moves nothing is a wasted step.

    >>> [round(learning_rate_at(s, 6, 2, "linear"), 3) for s in range(6)]
    [0.333, 0.667, 1.0, 0.75, 0.5, 0.25]
    """
    warmup_steps = min(num_warmup_steps(total_steps, warmup), total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def num_warmup_steps(total_steps: int, warmup: float) -> int:
    """A number of 1 or more counts steps; below 1 it is a fraction of all steps."""
    return int(warmup) if warmup >= 1 else math.ceil(warmup * total_steps)
