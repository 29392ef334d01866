"""Real passes that leave nothing behind: what `--dry-run` measures, and what it puts back."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.estimation.memory import SavedTensors, cuda_peak, tensors_of
from auto_bot_tuner.training.batching import Batch
from auto_bot_tuner.training.logprobs import CHUNK_TOKENS_CPU, CHUNK_TOKENS_GPU, CausalNLL, TrainedTokens, output_head

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer

ADAM_SAMPLE = 2**22  # weights: more than a cache holds, as a model's are


@contextmanager
def untouched(trainer: Trainer) -> Iterator[None]:
    """Whatever is computed inside, afterwards weights, random numbers, modes and counters are as they were."""
    device = trainer.accelerator.device
    modes = {module: module.training for module in trainer.module.modules()}
    record, state = copy.deepcopy(trainer.extra_state()), trainer.state.as_dict()
    state = copy.deepcopy(state)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
            for p in trainer.trained_parameters().values():
                p.grad = None
            trainer.load_extra_state(record)
            trainer.state.restore(state)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """How long `work` takes, until the device has done it."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - started


def backward(trainer: Trainer, batches: Sequence[Batch], counting: SavedTensors | None = None) -> None:
    """The gradients of these micro-batches, as a step sums them; no step is taken."""
    trainer.module.train()
    weight = sum(batch.weight for batch in batches) or 1
    for batch in batches:
        with trainer.accelerator.no_sync(trainer.module):  # each process measures for itself
            if counting is None:
                loss, _ = trainer.compute_loss(batch.to(trainer.accelerator.device))
            else:
                with counting:
                    loss, _ = trainer.compute_loss(batch.to(trainer.accelerator.device))
            trainer.accelerator.backward(loss * (batch.weight / weight))


def saved_by(trainer: Trainer, batch: Batch) -> int:
    """Bytes of activations that one pass over a micro-batch keeps for its backward pass.

    Where the device tells its true peak, that, less the logits, which are counted apart.
    """
    device = trainer.accelerator.device
    weights = [*tensors_of(trainer.model), *tensors_of(getattr(trainer, "value_network", None))]
    counting = SavedTensors(weights, vocabulary(trainer))
    if device.type == "cuda":
        backward(trainer, [batch])  # the gradients themselves are counted apart: they are there before the second pass
    with cuda_peak(device) as peak:
        backward(trainer, [batch], counting)
    return max([counting.bytes, *(found - logits_of(trainer, batch) for found in peak)])


def vocabulary(trainer: Trainer) -> int:
    """Width of the logits; 0 where the method has none."""
    return int(output_head(trainer.model).weight.shape[0]) if predicts_tokens(trainer) else 0


def predicts_tokens(trainer: Trainer) -> bool:
    return any(isinstance(module, TrainedTokens) for module in trainer.module.modules())


def logits_of(trainer: Trainer, batch: Batch) -> int:
    """Bytes of the logits that exist at one time: a chunk's, some copies of it, and the head's gradient twice.

    Of a head that is not plain: all trained tokens'.
    """
    if not predicts_tokens(trainer):
        return 0
    head = output_head(trainer.model).weight  # (V, H)
    trained = int((batch["labels"] != IGNORE_INDEX).sum())
    scoring = next(module for module in trainer.module.modules() if isinstance(module, TrainedTokens))
    if scoring.head_is_plain:
        trained = min(trained, CHUNK_TOKENS_GPU if head.is_cuda else CHUNK_TOKENS_CPU)
    # SFT: logits and their log-softmax. Other losses: the error beside them (or entropies).
    copies = 2 if isinstance(scoring, CausalNLL) else 3
    gradient = 2 * head.numel() * 4 if head.requires_grad else 0
    return copies * trained * head.shape[0] * 4 + gradient


def adam_seconds(trainer: Trainer) -> float:
    """What AdamW takes for a step over all trained weights, from a step over a few made-up ones."""
    device = trainer.accelerator.device
    trained = sum(p.numel() for p in trainer.trained_parameters().values())
    sample = torch.nn.Parameter(torch.zeros(min(trained, ADAM_SAMPLE), device=device))
    sample.grad = torch.zeros_like(sample)
    optimizer = torch.optim.AdamW([sample], lr=0.0, fused=device.type in ("cpu", "cuda"))

    def step() -> None:
        torch.nn.utils.clip_grad_norm_([sample], 1.0)
        optimizer.step()

    step()  # makes the averages
    return seconds_of(step, device) * trained / max(sample.numel(), 1)
