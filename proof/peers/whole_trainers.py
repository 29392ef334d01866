"""The advantages that TRL's `GRPOTrainer` and `RLOOTrainer` make, whole, on a small model, of rewards told them.

They make them inside a method that also writes and scores, so the trainers run; only what they are paid is ours.
"""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import TrainerCallback

from tests.rl_runs import letter_model, letter_tokenizer

GROUP, BATCH, UPDATES = 4, 8, 6


def rewards(update: int) -> list[float]:
    """Of one update: two groups of four; whole numbers in every second one, so that some are equal."""
    drawn = 3 * torch.randn(BATCH, generator=torch.Generator().manual_seed(update))
    return (drawn.round() if update % 2 else drawn).tolist()


class Notes(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Writes down what each update's advantages were."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.advantages: list[list[float]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.advantages.append(list(self.trainer._logs["advantages"])[-BATCH:])


@cache
def advantages(trainer_name: str, scale_rewards: str = "") -> list[list[float]]:
    """(updates, BATCH): of `GRPOTrainer` (`scale_rewards` group or none) or `RLOOTrainer`."""
    calls = iter(range(100))

    def told(completions: list[str], **_: Any) -> list[float]:
        return rewards(next(calls))

    config, trainer_class = getattr(trl, f"{trainer_name}Config"), getattr(trl, f"{trainer_name}Trainer")
    notes = Notes()
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"scale_rewards": scale_rewards} if scale_rewards else {}
        arguments = config(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=1,
            num_generations=GROUP,
            max_completion_length=4,
            max_steps=UPDATES,
            learning_rate=1e-5,
            beta=0.0,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            **settings,
        )
        notes.trainer = trainer_class(
            model=letter_model(),
            args=arguments,
            reward_funcs=told,
            train_dataset=Dataset.from_list([{"prompt": word} for word in ("ab", "cde", "fg", "hi")]),
            processing_class=letter_tokenizer(),
            callbacks=[notes],
        )
        notes.trainer.train()
    return notes.advantages
