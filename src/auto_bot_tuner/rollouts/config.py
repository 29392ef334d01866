"""What the on-policy methods share: how responses are written, rewarded and used. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import tyro
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, TrainingConfig

Clip = Annotated[float, Field(gt=0, lt=1)]


@dataclass(config=STRICT, kw_only=True)
class OnPolicyConfig(TrainingConfig):
    """Settings of PPO and GRPO alike.

    One *rollout* is batch_size x gradient_accumulation_steps x processes x minibatches prompts, answered by the
    present policy; each of its `epochs_per_rollout` passes takes `minibatches` optimiser steps. `max_steps`,
    `logging_steps`, `eval_steps` and `save_steps` count optimiser steps, as everywhere.
    """

    METHOD: ClassVar[str]

    # ---- Rollouts ----

    # Prompts per process in one accumulation step.
    batch_size: PositiveInt = 8
    # Prompts of one optimiser step = batch_size x this x processes.
    gradient_accumulation_steps: Annotated[PositiveInt, tyro.conf.arg(name="grad-accum")] = 1
    # Optimiser steps in one pass over a rollout (1 to 8); more make each rollout larger.
    minibatches: PositiveInt = 1
    # Passes over a rollout before the next is written (1 to 4). More learn more from the same responses, which fit less
    # and less to the policy: that is what clipping is for.
    epochs_per_rollout: PositiveInt = 1

    # Padded tokens of one forward pass, which change speed and memory but not the gradient. The responses to a prompt
    # stay together, however many tokens they have. 0: 2048 on CPU, 16384 elsewhere.
    micro_batch_tokens: NonNegativeInt = 0

    # ---- Rollouts ----

    # Divides the logits in writing and in training alike (0.7 to 1.2). 1: the model's own distribution.
    temperature: Annotated[float, Field(ge=0.01, allow_inf_nan=False)] = 1.0
    # Longest response in tokens, its end token included: time and memory grow with it.
    max_new_tokens: PositiveInt = 64
    # Rows x tokens that one batch of writing may hold: bounds the memory of the key-value cache.
    rollout_batch_tokens: PositiveInt = 32768
    # Where the old log-probabilities come from: sampling keeps those of writing, training computes them anew in the
    # training forward. auto: sampling in float32, training where arithmetic is lower, in which the two differ.
    old_logprobs: Literal["auto", "sampling", "training"] = "auto"
    # What the policy is held to: copy (a frozen copy of it), adapter_off (LoRA: the base), adapter_copy. auto: what is
    # exact and costs least.
    reference: Literal["auto", "copy", "adapter_off", "adapter_copy"] = "auto"

    # ---- Rewards ----

    # What a response is worth: names of verifiers (exact_match, gold …), reward model folders or file.py:function,
    # each with a weight before it where it has one: 0.2*length:64.
    reward: tuple[str, ...] = ()
    # Scores are cut to plus or minus this before they are used (2 to 10, for reward models that run wild). 0: never.
    reward_clip: NonNegativeFloat = 0.0
    # Subtracted from the score of a response that did not end by itself.
    missing_eos_penalty: NonNegativeFloat = 0.0
    # Leave responses that did not end out of the loss: they teach nothing, good or bad.
    mask_unfinished: bool = False

    @model_validator(mode="after")
    def check_dropout(self) -> OnPolicyConfig:
        """With dropout the same weights would give other probabilities in training than in writing."""
        if self.eval_batch_size != TrainingConfig.eval_batch_size:
            raise ValueError("eval_batch_size is not read here: rollout_batch_tokens bounds the writing of evaluations")
        if self.dropout > 0:
            raise ValueError("dropout must be 0: with it the ratio of new to old probabilities would be noise")
        return self
