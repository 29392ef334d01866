"""Our SFTTrainer as a worker of `baton.py`: its own loop, paused between steps. What holds for all trainers is here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import torch

from auto_bot_tuner.sft import SFTConfig, SFTTrainer
from auto_bot_tuner.training.batching import Batch
from auto_bot_tuner.training.events import Event
from auto_bot_tuner.training.logprobs import causal_model
from auto_bot_tuner.training.loop import Trainer
from benchmarks.baton import Baton
from benchmarks.task import Task
from benchmarks.workload import Row, build_model, build_rows, build_tokenizer


class TokenRows:
    """Rows that are tokens already, in the form that the trainer asks of a data set."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.lengths = [len(row["input_ids"]) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index]
        return {"input_ids": torch.tensor(row["input_ids"]), "labels": torch.tensor(row["labels"])}


class Paced(Trainer):
    """Makes any trainer follow a given plan of rows per step, waiting for the baton before each."""

    baton: Baton

    def batches(self) -> Iterator[list[Batch]]:
        for rows in self.baton.receive_plan():
            if not self.baton.wait():
                raise SystemExit(0)  # the conductor is done; what a trainer does at the end is not measured
            yield self.micro_batches(rows)
        self.baton.wait()  # report the last lap

    def run(self, baton: Baton) -> None:
        """Train when and as long as the conductor wants it."""
        self.baton = baton
        self.callbacks.append(self.note_loss)
        baton.watch(causal_model(self.model).get_input_embeddings())
        baton.ready()
        self.train()

    def note_loss(self, event: Event) -> None:
        if event.name == "log":
            self.baton.add_loss(event.metrics["loss"])


def settings(task: Task, output_dir: str) -> dict[str, Any]:
    """What the configs of our trainers have in common. Everything that is not named keeps its default."""
    return {
        "output_dir": output_dir,
        "precision": task.precision,
        "batch_size": task.rows_per_step,
        "gradient_accumulation_steps": 1,
        "learning_rate": task.learning_rate,
        "lr_schedule": "constant",
        "warmup": 0,
        "max_steps": task.steps,
        "compile": task.compile,
        "logging_steps": 1,
        "num_samples": 0,
        "report_to": (),
    }


class PacedSFT(Paced, SFTTrainer):
    pass


def main() -> None:
    task = Task.from_argv()
    baton = Baton(task.device)
    rows = build_rows(task.rows, task.max_length, task.completion_only)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(**settings(task, folder))
        PacedSFT(build_model(task), build_tokenizer(), TokenRows(rows), config=config).run(baton)


if __name__ == "__main__":
    main()
