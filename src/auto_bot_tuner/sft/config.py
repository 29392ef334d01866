"""The settings of supervised fine-tuning. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar

import tyro
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, Folder, TrainingConfig


@dataclass(config=STRICT, kw_only=True)
class SFTConfig(TrainingConfig):
    """Settings of `SFTTrainer`: the shared ones and those of SFT."""

    METHOD: ClassVar[str] = "sft"

    # Folder of the run: checkpoints, metrics.jsonl, samples.jsonl, final/.
    output_dir: Folder = "checkpoints/sft"
    # ---- Settings of SFT ----

    # NEFTune: noise of this size on the embeddings, against memorising short data (5 to 15). 0: off.
    neftune_alpha: Annotated[NonNegativeFloat, tyro.conf.arg(name="neftune-alpha")] = 0.0

    # Rejection sampling: before training the model writes so many answers to each prompt, and imitates the best of
    # them instead of the data's (4 to 16). 0: off.
    from_best_of: NonNegativeInt = 0
    # Which is the best: names of verifiers (exact_match, gold …), reward model folders or file.py:function, each with
    # a weight before it where it has one: 0.2*length:64.
    reward: tuple[str, ...] = ()
    # Divides the logits in writing those answers. Lower ones are more alike: there is less to choose from
    # (0.7 to 1.2).
    best_of_temperature: Annotated[float, Field(ge=0.01, allow_inf_nan=False)] = 1.0
    # Longest of those answers in tokens, its end token included.
    best_of_max_new_tokens: PositiveInt = 128

    @model_validator(mode="after")
    def check_best_of(self) -> SFTConfig:
        """Each of these would otherwise be ignored in silence."""
        if self.from_best_of == 1:
            raise ValueError("from_best_of 1 has nothing to choose from: give 2 or more, or 0 to imitate the data")
        if bool(self.from_best_of) != bool(self.reward):
            raise ValueError("from_best_of and reward go together: give both, or none")
        return self
