"""Checks before and at the first step: a run that cannot work stops in seconds, with the cause and the cure."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.training import sharding, zero
from auto_bot_tuner.training.batching import longest_sequence, sequences_of
from auto_bot_tuner.training.run_folder import written_aside
from auto_bot_tuner.utils.errors import UsageError, UserError

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer

CHECKED_ROWS = 200  # spread over the data: enough to find a mistake that concerns all, few enough to cost nothing
SKIPPED_STEPS = 50  # halving the loss scale 50 times leaves nothing of it


def check_rows(dataset: Any, vocabulary: int) -> None:
    """There is something to learn, it includes stopping, and every id has an embedding.

    Raises:
        UserError: one of these does not hold.
    """
    if len(dataset) == 0:
        raise UserError("the training set is empty: check --dataset, --split and --max-samples")
    sequences = some_sequences(dataset)
    trained = [labels[1:][labels[1:] != IGNORE_INDEX] for _, labels in sequences]
    if not any(len(labels) for labels in trained):
        raise UserError(
            "no trained token in the first rows: every label is -100; look at one with: python main.py inspect"
        )
    check_ids(dataset, vocabulary)
    # A data set that knows its stop tokens has responses that end with them, unless every one of them was cut.
    stops = getattr(dataset, "stop_token_ids", ())
    if stops and not any(int(stop) in labels.tolist() for labels in trained for stop in stops):
        raise UserError(
            "no end token is trained, so the model would never learn to stop: all rows are cut; raise --max-length"
        )


def some_sequences(dataset: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(input_ids, labels) of rows spread over the data."""
    rows = range(0, len(dataset), max(1, len(dataset) // CHECKED_ROWS))
    return [sequence for row in rows for sequence in sequences_of(dataset, row)]


def check_ids(dataset: Any, vocabulary: int) -> None:
    """Every id has an embedding.

    Raises:
        UserError: one has not.
    """
    largest = max(int(input_ids.max()) for input_ids, _ in some_sequences(dataset))
    if largest >= vocabulary:
        raise UserError(
            f"token id {largest} has no embedding (the model knows {vocabulary}): "
            "the rows were tokenised with another model's tokenizer"
        )


def check_no_dropout(policy: nn.Module) -> None:
    """Policy and reference, old policy and new, are compared token by token: noise in one of them would be learnt.

    Raises:
        UsageError: dropout is on.
    """
    noisy = next((name for name, m in policy.named_modules() if isinstance(m, nn.Dropout) and m.p > 0), None)
    if noisy is not None:
        raise UsageError(f"dropout is on in the policy ({noisy}): set lora_dropout to 0")


def check_context(datasets: list[Any], model: Any) -> None:
    """Every row fits into what the model can read: beyond it GPT-2 has no position, and others were never trained.

    Raises:
        UserError: the longest row does not.
    """
    limit = getattr(model.config, "max_position_embeddings", None)  # GPT-2's n_positions goes by this name too
    if limit is None:
        return
    longest = max(longest_sequence(dataset) for dataset in datasets if dataset)
    if longest > limit:
        raise UserError(f"the longest row has {longest} tokens, the model reads {limit} at most: --max-length {limit}")


def check_disk(folder: Path, parameters: Iterable[nn.Parameter]) -> None:
    """Room for one checkpoint: weights, and two float32 averages per trained weight, half as much again for luck."""
    trained = sum(p.numel() * 4 for p in parameters)
    need = int(1.5 * 3 * trained)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"a checkpoint needs about {need / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free: "
            "free some space or choose another --output-dir"
        )


def check_save(trainer: Trainer, folder: Path) -> None:
    """Write the weights once, as a checkpoint would, and delete them: a save that fails should fail before the work.

    Raises:
        UserError: with the cause.
    """
    trial = folder / "save-test"
    with written_aside(trial) as aside:
        trainer.save_weights(aside)
    shutil.rmtree(trial)


def check_skipped(steps: int) -> None:
    """fp16 skips a step whose gradient overflows, and halves its loss scale; many in a row mean that it never fits."""
    if steps >= SKIPPED_STEPS:
        raise UserError(f"fp16 overflowed in {steps} steps in a row: use --precision bf16 or fp32")


def check_finite(loss: float, grad_norm: float, step: int, rows: list[int], lr: float) -> None:
    """The first loss or gradient that is not a number stops the run, before the optimiser spreads it."""
    for name, value in (("loss", loss), ("gradient norm", grad_norm)):
        if value != value or value in (float("inf"), float("-inf")):
            raise UserError(
                f"the {name} is {value} in step {step + 1} (rows {rows[:4]}…, learning rate {lr:.2g}); nothing was "
                "saved after it. Try a smaller --learning-rate, or --precision fp32"
            )


def size_of_gradient(parameter: nn.Parameter) -> float:
    """-1 where it has none. Every process must take part."""
    gradient = zero.full_gradient(parameter)
    return -1.0 if gradient is None else float(sharding.whole(gradient.norm()))


class MoveCheck:
    """Whether the first step moved anything: frozen weights and lost gradients look like training otherwise."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        sizes = {name: size_of_gradient(parameter) for name, parameter in parameters.items()}
        self.name = max(sizes, key=lambda name: sizes[name], default="")
        self.parameter = parameters[self.name] if sizes.get(self.name, -1.0) >= 0 else None
        self.before = None if self.parameter is None else sharding.whole(self.parameter.detach()).clone()

    def check(self) -> None:
        if self.parameter is None or self.before is None:
            raise UserError(
                "no weight has a gradient: every parameter is frozen; train an adapter (--lora) or unfreeze some"
            )
        if torch.equal(self.before, sharding.whole(self.parameter.detach())):
            raise UserError(
                f"the first step moved nothing (not even {self.name}): the loss does not depend on the weights, "
                "or the learning rate is too small for their type"
            )
