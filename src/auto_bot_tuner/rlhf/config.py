"""The settings of reward modelling and of PPO. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from auto_bot_tuner.rollouts.config import Clip, OnPolicyConfig
from auto_bot_tuner.training.config import STRICT, Folder, PositiveFloat, TrainingConfig


@dataclass(config=STRICT, kw_only=True)
class RewardModelConfig(TrainingConfig):
    """Settings of `RewardModelTrainer`: the shared ones and those of reward modelling.

    One epoch by default, as everywhere here, and for reward models it matters: seen twice, pairs are remembered, and
    scores grow over-sure (Ouyang et al. 2022, 2203.02155, app. C.2).
    """

    METHOD: ClassVar[str] = "reward"
    # A head alone is one row of numbers on features that stand still.
    HEAD_LEARNING_RATE: ClassVar[float] = 1e-2

    # Folder of the run: checkpoints, metrics.jsonl, samples.jsonl, final/.
    output_dir: Folder = "checkpoints/reward"
    # Peak learning rate. Empty: 2e-5 for full fine-tuning, 2e-4 for LoRA, 1e-2 for the head alone; try a third to three
    # times as much.
    learning_rate: PositiveFloat | None = None
    # ---- Settings of reward modelling ----

    # What people gave: pairs (one of two is better), rankings (of K responses) or scores (a number each).
    objective: Literal["pairs", "rankings", "scores"] = "pairs"
    # Train the score head alone, on the model as it is: quick, and a measure of what it knows already.
    frozen_base: bool = False
    # Pairs: ask for a gap as large as that of the data's own scores (Llama 2's margin).
    use_margin: bool = False
    # Weight of (chosen + rejected)^2, which keeps scores near zero while they are learnt (0.001 to 0.1).
    centering: NonNegativeFloat = 0.0
    # Share of the judgements taken to be wrong (0.05 to 0.2): scores stay finite where people err.
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


@dataclass(config=STRICT, kw_only=True)
class PPOConfig(OnPolicyConfig):
    """Settings of `PPOTrainer`: the shared ones of learning from rollouts and those of PPO.

    The defaults are those of Huang et al. 2024 (2403.17031) where nothing else is said.
    """

    METHOD: ClassVar[str] = "ppo"
    FULL_LEARNING_RATE: ClassVar[float] = 3e-6
    LORA_LEARNING_RATE: ClassVar[float] = 3e-5

    # Folder of the run: checkpoints, metrics.jsonl, samples.jsonl, final/.
    output_dir: Folder = "checkpoints/ppo"
    # Peak learning rate. Empty: 3e-6 for full fine-tuning, 3e-5 for LoRA; try 1e-6 to 1e-5, with LoRA 1e-5 to 1e-4.
    learning_rate: PositiveFloat | None = None
    # ---- Settings of PPO ----

    # Peak learning rate of the value network (one to ten times the policy's). Empty: that of the policy.
    value_learning_rate: PositiveFloat | None = None
    # Added to AdamW's denominator: first steps would otherwise be as large as later ones, on noise alone.
    adam_epsilon: PositiveFloat = 1e-5
    # Optimiser steps in one pass over a rollout; more make each rollout larger.
    minibatches: PositiveInt = 4
    # Passes over a rollout before the next is written.
    epochs_per_rollout: PositiveInt = 4
    # Log every this many steps. The default is once a rollout: reward and KL are of whole rollouts.
    logging_steps: PositiveInt = 16

    # ---- Rewards ----

    # Reward models, one folder each. Several score together, as reward_ensemble says.
    reward_model: tuple[str, ...] = ()
    # How several reward models become one score: their mean, the lowest, or the mean less their deviation.
    reward_ensemble: Literal["mean", "min", "mean_minus_std"] = "mean"
    # Divide scores by their running standard deviation, so that one kl_coefficient fits any reward model.
    scale_rewards: bool = False
    # Subtracted from the score of a response that did not end by itself.
    missing_eos_penalty: NonNegativeFloat = 1.0

    # ---- Settings of PPO ----

    # A token whose probability has moved by more than this share since it was written is no longer pushed further (0.1
    # to 0.3).
    clip_ratio: Clip = 0.2
    # Price of one nat of divergence from the reference, paid in the reward of each token (0.01 to 0.2).
    kl_coefficient: NonNegativeFloat = 0.05
    # Move kl_coefficient so that the divergence comes to this many nats a response (2 to 10). Empty: it is fixed.
    kl_target: PositiveFloat | None = None
    # Responses in which the adaptive coefficient can change by about a factor e^0.2.
    kl_horizon: PositiveInt = 10_000

    # How much of a later reward counts now. Text is short: all of it.
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    # GAE: 1 trusts the rewards alone (no bias), 0 the value network alone (little noise); 0.9 to 1.
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    # Centre and scale the advantages over all tokens of a rollout.
    whiten_advantages: bool = True
    # The value's clip: how far a prediction may move from the old one and still count (0.1 to 0.5). 0: no
    # clipping.
    value_clip: NonNegativeFloat = 0.2
    # Weight of the entropy, which keeps the policy trying other words (0 to 0.01). Text rarely needs it.
    entropy_coefficient: NonNegativeFloat = 0.0
    # Skip a rollout's other steps once the policy is this many nats per token from the one that wrote it (0.02 to
    # 0.1). 0: never.
    early_stop_kl: NonNegativeFloat = 0.0

    # What the value network starts as: a copy of the policy (its head says 0 at first), or of the reward model.
    value_from: Literal["policy", "reward_model"] = "policy"
    # LoRA: policy, value network, reference and (trained as an adapter on the same base) the reward model as adapters
    # of one frozen backbone, instead of a network each.
    share_backbone: bool = True

    # Data set of answers to imitate beside PPO, so that nothing is forgotten (InstructGPT's PPO-ptx).
    sft_dataset: str = ""
    # Weight of that SFT loss (0.1 to 2).
    sft_weight: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def check_that_settings_agree(self) -> PPOConfig:
        """Each of these would otherwise be ignored in silence."""
        if self.sft_dataset and not self.sft_weight:
            raise ValueError("sft_dataset and sft_weight go together: a data set without a weight would be ignored")
        if self.kl_target is None and self.kl_horizon != type(self).kl_horizon:
            raise ValueError("kl_horizon is read with kl_target alone: give that too, or leave it out")
        if self.early_stop_kl and self.epochs_per_rollout * self.minibatches == 1:
            raise ValueError("early_stop_kl skips a rollout's other steps, and here it has one: leave it out")
        if self.kl_target is not None and self.kl_coefficient == 0:
            raise ValueError("kl_target multiplies kl_coefficient, and 0 stays 0: set kl_coefficient above 0")
        if self.reward_ensemble != "mean" and len(self.reward_model) < 2:
            raise ValueError(f"reward_ensemble {self.reward_ensemble} needs two or more reward models")
        return self
