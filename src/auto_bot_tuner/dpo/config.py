"""The settings of direct preference optimisation and its family. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, model_validator
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, Folder, PositiveFloat, TrainingConfig

Loss = Literal["sigmoid", "conservative", "robust", "ipo", "hinge", "simpo", "orpo", "kto"]
WITHOUT_REFERENCE = ("simpo", "orpo")
# What only some members of the family read: a setting that nothing reads is a lie.
READ_BY = {
    "label_smoothing": ("conservative", "robust"),
    "simpo_gamma": ("simpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "sft_weight": ("sigmoid", "conservative", "robust", "ipo", "hinge", "simpo"),  # ORPO is SFT already
}


@dataclass(config=STRICT, kw_only=True)
class DPOConfig(TrainingConfig):
    """Settings of `DPOTrainer`: the shared ones and those of DPO."""

    METHOD: ClassVar[str] = "dpo"
    # A tenth to a twentieth of SFT's: a pair's gradient is that of whole answers, sums over hundreds of tokens, and
    # a policy that runs away from its reference forgets how to write. 1e-6 is that of the paper (2305.18290, app. B).
    FULL_LEARNING_RATE: ClassVar[float] = 1e-6
    LORA_LEARNING_RATE: ClassVar[float] = 1e-5

    # Folder of the run: checkpoints, metrics.jsonl, samples.jsonl, final/.
    output_dir: Folder = "checkpoints/dpo"
    # Peak learning rate. Empty: 1e-6 for full fine-tuning, 1e-5 for LoRA; try 5e-7 to 5e-6, with LoRA 5e-6 to 5e-5.
    learning_rate: PositiveFloat | None = None

    # ---- Settings of DPO ----

    # Which member of the family: sigmoid is DPO, kto learns from single answers; docs/dpo.md compares them.
    loss: Loss = "sigmoid"
    # How strongly the policy is held to its reference: 0.01 lets go, 0.5 holds tight. SimPO wants about 2.
    beta: PositiveFloat = 0.1
    # Share of the labels that are wrong, below 0.5 (0.05 to 0.3): conservative and robust need it.
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    # Weight of SFT on the chosen answers beside the loss, against falling log-probabilities (try 0.1 to 1). 0: none.
    sft_weight: NonNegativeFloat = 0.0
    # SimPO: how much reward the chosen answer shall lead by (0.3 to 1.6).
    simpo_gamma: NonNegativeFloat = 0.5
    # KTO: weight of the good answers; larger where they are few (1 to 4).
    desirable_weight: PositiveFloat = 1.0
    # KTO: weight of the bad answers; larger where they are few (1 to 4).
    undesirable_weight: PositiveFloat = 1.0
    # Where the reference's log-probabilities come from: a frozen copy, the policy with its new adapter off, the
    # starting adapter loaded twice, or computed once before training. auto takes what is exact and costs least.
    reference: Literal["auto", "copy", "adapter_off", "adapter_copy", "precomputed", "none"] = "auto"

    @model_validator(mode="after")
    def check_that_settings_agree(self) -> DPOConfig:
        """Each of these would otherwise be ignored in silence, or fail after the model was loaded."""
        for name, readers in READ_BY.items():
            if self.loss not in readers and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name} is not read by loss {self.loss}, only by {', '.join(readers)}")
        if self.loss in ("conservative", "robust") and self.label_smoothing == 0:
            raise ValueError(
                f"loss {self.loss} without label_smoothing is plain DPO: say which share of labels is wrong"
            )
        if self.loss in WITHOUT_REFERENCE and self.reference not in ("auto", "none"):
            raise ValueError(f"loss {self.loss} has no reference: leave reference {self.reference} out")
        if self.loss not in WITHOUT_REFERENCE and self.reference == "none":
            raise ValueError(f"loss {self.loss} compares with a reference: reference none is for simpo and orpo")
        if self.loss == "kto" and self.reference == "precomputed":
            raise ValueError("loss kto compares new pairings in each step, which cannot be precomputed: reference auto")
        if self.dropout > 0:
            raise ValueError(
                "dropout must be 0: with it policy and reference differ at random, and the loss would learn that noise"
            )
        return self
