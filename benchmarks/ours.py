"""Our SFTTrainer as a worker of `baton.py`: its own loop, paused between steps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch

from auto_bot_tuner.sft import SFTConfig, SFTTrainer
from auto_bot_tuner.training.batching import Batch
from auto_bot_tuner.training.events import Event
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


class PacedTrainer(SFTTrainer):
    """The trainer on a given plan of rows per step, waiting for the baton before each."""

    def __init__(self, rows: list[Row], task: Task, baton: Baton, output_dir: str) -> None:
        self.plan, self.baton = task.plan, baton
        config = SFTConfig(
            output_dir=output_dir,
            precision=task.precision,
            batch_size=task.rows_per_step,
            gradient_accumulation_steps=1,
            learning_rate=task.learning_rate,
            lr_schedule="constant",
            warmup=0,
            max_steps=len(task.plan),
            logging_steps=1,
            num_samples=0,
            report_to=(),
        )
        super().__init__(build_model(), build_tokenizer(), TokenRows(rows), config=config, callbacks=[self.note_loss])

    def batches(self) -> Iterator[list[Batch]]:
        for rows in self.plan:
            if not self.baton.wait():
                raise SystemExit(0)  # the conductor is done; what a trainer does at the end is not measured
            yield self.micro_batches(rows)
        self.baton.wait()  # report the last lap

    def note_loss(self, event: Event) -> None:
        if event.name == "log":
            self.baton.add_loss(event.metrics["loss"])


def main() -> None:
    task = Task.from_argv()
    baton = Baton()
    rows = build_rows(task.rows, task.max_length, task.completion_only)
    with tempfile.TemporaryDirectory() as folder:
        trainer = PacedTrainer(rows, task, baton, folder)
        trainer.model.get_input_embeddings().register_forward_pre_hook(
            lambda module, inputs: baton.count_computed(inputs[0].numel())
        )
        baton.ready()
        trainer.train()


if __name__ == "__main__":
    main()
