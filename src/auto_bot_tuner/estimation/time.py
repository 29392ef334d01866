"""How long a run would take: some of its real passes, timed, and as many of them as it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from auto_bot_tuner.estimation.probe import adam_seconds, backward, seconds_of
from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.generation import respond
from auto_bot_tuner.training.batching import epoch_order, in_order, row_lengths
from auto_bot_tuner.training.samples import sample_conversations

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer

ENOUGH = 3.0  # seconds that are measured of a kind of work, one pass at the least
MOST_STEPS = 5
SAMPLE_TOKENS = 8  # of a sample, which are then multiplied


@dataclass(frozen=True)
class Duration:
    """Seconds of a run, by what they are spent on."""

    step: float = 0.0  # of one optimiser step
    steps: int = 0
    evaluation: float = 0.0  # of one, with its samples
    evaluations: int = 0
    rollout: float = 0.0  # to write and score one
    rollouts: int = 0
    before: float = 0.0  # once, before the first step

    @property
    def total(self) -> float:
        training = self.step * self.steps + self.rollout * self.rollouts
        return self.before + training + self.evaluation * self.evaluations


def evaluations_of(trainer: Trainer) -> int:
    """How often a run evaluates: before the first step, as `eval_steps` says, and at the end."""
    steps, every = trainer.total_steps, trainer.config.eval_steps
    regular = steps // every if every else 0
    return 1 + regular + (1 if not every or steps % every else 0)


def duration(trainer: Trainer) -> Duration:
    """Of a method whose rows are there: those of a few steps are learnt from, without the step."""
    is_precomputed = getattr(trainer, "reference_kind", "") == "precomputed"
    per_token = evaluation_seconds_per_token(trainer, trainer.train_dataset) if is_precomputed else 0.0
    return Duration(
        step=step_seconds(trainer) + adam_seconds(trainer),
        steps=trainer.total_steps,
        evaluation=evaluation_seconds(trainer) + sample_seconds(trainer),
        evaluations=evaluations_of(trainer),
        before=per_token * sum(trainer.lengths),
    )


def step_seconds(trainer: Trainer) -> float:
    """Forward and backward of a typical step: of the first few, until they have taken long enough."""
    order, size = epoch_order(len(trainer.lengths), trainer.config.seed, 0), trainer.rows_per_step
    spent, steps = 0.0, 0.0
    for start in range(0, min(len(order), MOST_STEPS * size), size):
        rows = order[start : start + size]
        batches, done = [], 0

        def prepare(rows: Sequence[int] = rows) -> None:
            nonlocal batches
            batches = trainer.micro_batches(rows)

        spent += seconds_of(prepare, trainer.accelerator.device)
        tokens = sum(batch.tokens for batch in batches)
        for batch in batches:
            spent += seconds_of(lambda one=batch: backward(trainer, [one]), trainer.accelerator.device)  # type: ignore[misc]
            done += batch.tokens
            if spent > ENOUGH and not steps:
                break  # a part of a long step is enough: its micro-batches have about as many tokens each
        steps += done / max(tokens, 1) * len(rows) / size
        if spent > ENOUGH:
            break
    return spent / steps if steps else 0.0


def evaluation_seconds(trainer: Trainer) -> float:
    """One evaluation, without samples."""
    if trainer.eval_dataset is None:
        return 0.0
    lengths = row_lengths(trainer.eval_dataset)
    return evaluation_seconds_per_token(trainer, trainer.eval_dataset) * sum(lengths) / trainer.processes


@torch.no_grad()
def evaluation_seconds_per_token(trainer: Trainer, dataset: object) -> float:
    """Of batches from the middle of an evaluation, which goes from long rows to short ones."""
    trainer.module.eval()
    lengths = row_lengths(dataset)
    batches = list(in_order(lengths, trainer.config.eval_batch_size, 1, 0))
    middle = sorted(range(len(batches)), key=lambda i: abs(i - len(batches) // 2))
    spent, tokens = 0.0, 0
    for number in middle[:MOST_STEPS]:
        rows = batches[number]

        def measure(rows: list[int] = rows) -> None:
            batch = trainer.collate(dataset, rows)
            trainer.compute_loss(batch.to(trainer.accelerator.device))

        spent += seconds_of(measure, trainer.accelerator.device)
        tokens += sum(lengths[row] for row in rows)
        if spent > ENOUGH:
            break
    return spent / max(tokens, 1)


def sample_seconds(trainer: Trainer) -> float:
    """The samples of one evaluation, where the model writes any, at their longest."""
    config = trainer.config
    if getattr(trainer.config, "METHOD", "") == "reward":
        return 0.0
    conversations = sample_conversations(trainer)
    if not conversations:
        return 0.0
    tokens = min(SAMPLE_TOKENS, config.sample_max_new_tokens)
    writing = GenerationConfig(max_new_tokens=tokens)
    seconds = seconds_of(
        lambda: respond(trainer.model, trainer.tokenizer, conversations, writing), trainer.accelerator.device
    )
    return seconds * config.sample_max_new_tokens / tokens
