"""The settings of reward modelling. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, PositiveFloat, TrainingConfig


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
    output_dir: str = "checkpoints/reward"
    # Peak learning rate. Empty: 2e-5 for full fine-tuning, 2e-4 for LoRA, 1e-2 for the head alone.
    learning_rate: PositiveFloat | None = None
    # What people gave: pairs (one of two is better), rankings (of K responses) or scores (a number each).
    objective: Literal["pairs", "rankings", "scores"] = "pairs"
    # Train the score head alone, on the model as it is: quick, and a measure of what it knows already.
    frozen_base: bool = False
    # Pairs: ask for a gap as large as that of the data's own scores (Llama 2's margin).
    use_margin: bool = False
    # Weight of (chosen + rejected)^2, which keeps scores near zero while they are learnt (try 0.01).
    centering: NonNegativeFloat = 0.0
    # Share of the judgements taken to be wrong: scores stay finite where people err.
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
