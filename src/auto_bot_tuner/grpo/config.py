"""The settings of GRPO and its relatives. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from auto_bot_tuner.rollouts.config import Clip, OnPolicyConfig
from auto_bot_tuner.training.config import STRICT, Folder, PositiveFloat

Loss = Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce"]
WITHOUT_CLIP = ("rloo", "reinforce")  # they use each response once


@dataclass(config=STRICT, kw_only=True)
class GRPOConfig(OnPolicyConfig):
    """Settings of `GRPOTrainer`: the shared ones and those of group-relative methods."""

    METHOD: ClassVar[str] = "grpo"
    FULL_LEARNING_RATE: ClassVar[float] = 1e-6
    LORA_LEARNING_RATE: ClassVar[float] = 1e-5

    # Folder of the run: checkpoints, metrics.jsonl, samples.jsonl, final/.
    output_dir: Folder = "checkpoints/grpo"
    # Peak learning rate. Empty: 1e-6 for full fine-tuning, 1e-5 for LoRA; try 5e-7 to 5e-6, with LoRA 5e-6 to 1e-4.
    learning_rate: PositiveFloat | None = None

    # ---- Settings of GRPO ----

    # Which member of the family; docs/grpo.md compares them.
    loss: Loss = "grpo"
    # Responses to one prompt, which are compared with each other (4 to 16). 1: for reinforce alone, which compares with
    # those to other prompts.
    group_size: PositiveInt = 8
    # Weight of the KL divergence from the reference (0.001 to 0.1). 0: no reference is needed.
    beta: NonNegativeFloat = 0.0
    # Estimator of the KL term in the loss: k2, or k3 times the importance ratio, both with the right gradient; k3_plain
    # is k3 without the ratio, as the GRPO paper and TRL write it. RLOO and REINFORCE put k1 into the reward instead.
    kl_kind: Literal["k2", "k3", "k3_plain"] = "k3"
    # A token whose probability has fallen by more than this share since it was written is no longer pushed down (0.1 to
    # 0.3). Empty: 0.2; for gspo, whose ratio is a mean over the response, 3e-4.
    clip_ratio: Clip | None = None
    # The same for a token that has risen. Empty: 0.28 for dapo, 4e-4 for gspo, else as far up as down.
    clip_ratio_high: Clip | None = None
    # Divide the advantages by the group's standard deviation. Empty: as the loss has it (GRPO, DAPO and GSPO do).
    scale_by_std: bool | None = None
    # Leave out groups in which all responses have the same reward. Empty: as the loss has it (DAPO does).
    drop_equal_groups: bool | None = None
    # DAPO: the last so many tokens before max_new_tokens cost up to 1, in proportion (a fifth of it). 0: none.
    overlong_buffer: NonNegativeInt = 0

    @model_validator(mode="after")
    def check_together(self) -> GRPOConfig:
        if self.group_size == 1 and self.loss != "reinforce":
            raise ValueError(
                f"group_size 1 leaves a response of loss {self.loss} without siblings to compare it with: set 2 or "
                "more, or take reinforce, which compares with the responses to other prompts"
            )
        if self.loss in WITHOUT_CLIP and (self.epochs_per_rollout > 1 or self.minibatches > 1):
            raise ValueError(
                f"loss {self.loss} has no importance ratio, so it may use a response once: set epochs_per_rollout and "
                "minibatches to 1, or take another loss"
            )
        unread = [name for name in ("clip_ratio", "clip_ratio_high") if getattr(self, name) is not None]
        unread += ["kl_kind"] if self.kl_kind != "k3" else []
        if self.loss in WITHOUT_CLIP and unread:
            raise ValueError(
                f"{unread[0]} is not read by loss {self.loss}, which clips nothing and has k1 in the reward: leave it "
                "out, or take another loss"
            )
        if self.overlong_buffer >= self.max_new_tokens:
            raise ValueError("overlong_buffer must be less than max_new_tokens: it is the last part of a response")
        return self
