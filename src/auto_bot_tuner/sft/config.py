"""The settings of supervised fine-tuning. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar

import tyro
from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, TrainingConfig


@dataclass(config=STRICT, kw_only=True)
class SFTConfig(TrainingConfig):
    """Settings of `SFTTrainer`: the shared ones and those of SFT."""

    METHOD: ClassVar[str] = "sft"

    # Folder of the run: checkpoints, metrics.jsonl, samples.jsonl, final/.
    output_dir: str = "checkpoints/sft"
    # NEFTune: noise of this size on the embeddings, against memorising short data (try 5). 0: off.
    neftune_alpha: Annotated[NonNegativeFloat, tyro.conf.arg(name="neftune-alpha")] = 0.0
