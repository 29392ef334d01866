"""Numbers that follow from the settings of an on-policy run: rollouts, steps, and in what arithmetic they compute."""

from __future__ import annotations

import math

import torch

from auto_bot_tuner.rollouts.config import OnPolicyConfig
from auto_bot_tuner.training.loop import Trainer

GPU_TOKENS = 16384  # of one forward pass, where the settings do not say


class RolloutSchedule(Trainer):
    """An epoch is counted in rollouts here, and a rollout in optimiser steps."""

    config: OnPolicyConfig
    samples_per_prompt = 1

    @property
    def prompts_per_rollout(self) -> int:
        return self.rows_per_step * self.config.minibatches

    @property
    def steps_per_rollout(self) -> int:
        return self.config.epochs_per_rollout * self.config.minibatches

    @property
    def rollouts_per_epoch(self) -> int:
        # The last, smaller rollout of an epoch is written too.
        return math.ceil(len(self.lengths) / self.prompts_per_rollout)

    @property
    def steps_per_epoch(self) -> int:
        return self.rollouts_per_epoch * self.steps_per_rollout

    @property
    def token_budget(self) -> int:
        if self.config.micro_batch_tokens:
            return self.config.micro_batch_tokens
        return 2048 if self.accelerator.device.type == "cpu" else GPU_TOKENS

    @property
    def is_exact(self) -> bool:
        """Whether writing and training compute the same numbers: float32 throughout."""
        in_float32 = all(p.dtype == torch.float32 for p in self.model.parameters())
        return self.accelerator.mixed_precision == "no" and in_float32

    @property
    def keeps_sampling_logprobs(self) -> bool:
        return self.config.old_logprobs == "sampling" or (self.config.old_logprobs == "auto" and self.is_exact)

    @property
    def is_flat(self) -> bool:
        """Whether rows travel without padding, and a prompt is computed once for all of its responses."""
        return bool(getattr(self.accelerator.unwrap_model(self.module), "is_flat", False))
