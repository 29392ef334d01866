"""TRL's SFTTrainer as a worker of `baton.py`: its own loop, collator and loss, paused between steps.

TRL's trainers log loss, gradient norm, entropy, accuracy … by themselves; nothing is added to that. What holds for all
of them is here too.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer

from benchmarks.baton import Baton
from benchmarks.task import Task
from benchmarks.workload import Row, build_model, build_rows, build_tokenizer


class PassTheBaton(TrainerCallback):
    """Stops before each optimiser step until the conductor wants it, and keeps the logged losses."""

    def __init__(self, baton: Baton) -> None:
        self.baton = baton

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.baton.wait():
            raise SystemExit(0)  # the conductor is done; what a trainer does at the end is not measured

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self.baton.add_loss(logs["loss"])


def trl_settings(task: Task, output_dir: str) -> dict[str, Any]:
    """What the configs of TRL's trainers have in common. Everything that is not named keeps TRL's default."""
    micro_batch = task.micro_batch or task.rows_per_step
    return {
        "output_dir": output_dir,
        "use_cpu": task.device == "cpu",
        "bf16": task.precision == "bf16",
        # TRL turns recomputation on by default. Off is kinder to it: about a third less work.
        "gradient_checkpointing": False,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": task.rows_per_step // micro_batch,
        "max_length": task.max_length,
        "learning_rate": task.learning_rate,
        "lr_scheduler_type": "constant",
        # The rows come in a random order already (or grouped by length, see `order_rows`).
        "train_sampling_strategy": "sequential",
        # One step more than is asked for: the loop must still be waiting when the last lap is reported.
        "max_steps": task.steps + 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }


def order_rows(lengths: list[int], task: Task) -> list[int]:
    """The order in which TRL meets the rows: as they come, or what `group_by_length` makes of them."""
    if task.variant != "best":
        return list(range(len(lengths)))
    generator = torch.Generator().manual_seed(0)
    indices: list[int] = get_length_grouped_indices(lengths, task.rows_per_step, generator=generator)
    # It puts the longest row first, so that memory runs out early; the steps after it are what we time.
    return indices


def plan_of(trainer: SFTTrainer, rows: list[Row], rows_per_step: int) -> list[list[int]]:
    """The rows of each optimiser step, found again by content: packing does not say which rows it merged."""
    numbers: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        numbers[tuple(row["input_ids"])].append(number)
    plan = []
    dataset = trainer.train_dataset
    for start in range(0, len(dataset) - rows_per_step + 1, rows_per_step):
        step = []
        for packed in dataset.select(range(start, start + rows_per_step)):
            ids, position = packed["input_ids"], 0
            for length in packed.get("seq_lengths") or [len(ids)]:
                step.append(numbers[tuple(ids[position : position + length])].pop())
                position += length
        plan.append(step)
    return plan


def run(trainer: Trainer, baton: Baton, plan: list[list[int]]) -> None:
    """Train when and as long as the conductor wants it; `plan` tells it which rows make up each step."""
    baton.watch(trainer.model.get_input_embeddings())
    baton.ready(plan=plan)
    trainer.train()


def main() -> None:
    task = Task.from_argv()
    baton = Baton(task.device)
    rows = build_rows(task.rows, task.max_length, task.completion_only)
    order = order_rows([len(row["input_ids"]) for row in rows], task)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=build_model(task),
            args=SFTConfig(packing=task.variant == "packing", **trl_settings(task, folder)),
            train_dataset=Dataset.from_list([rows[i] for i in order]),
            processing_class=build_tokenizer(),
            callbacks=[PassTheBaton(baton)],
        )
        run(trainer, baton, plan_of(trainer, rows, task.rows_per_step))


if __name__ == "__main__":
    main()
