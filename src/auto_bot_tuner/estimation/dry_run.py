"""What a run would take, before it starts: memory by part, time, and whether it fits. The dry run prints it.

Nothing here is a table of architectures. Weights are counted as they lie in memory; what a training pass keeps is
counted on the largest micro-batch that the rows can make; time is taken on typical ones. No step is taken, and
afterwards everything is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from auto_bot_tuner.estimation import memory as memory_of
from auto_bot_tuner.estimation import rollouts
from auto_bot_tuner.estimation import time as time_of
from auto_bot_tuner.estimation.advice import SHARE, Advice, Estimate, Workload, fits
from auto_bot_tuner.estimation.memory import Memory
from auto_bot_tuner.estimation.probe import logits_of, saved_by, untouched
from auto_bot_tuner.estimation.rollouts import Written, base_of
from auto_bot_tuner.estimation.time import Duration
from auto_bot_tuner.rollouts.trainer import OnPolicyTrainer
from auto_bot_tuner.training import engine
from auto_bot_tuner.training.batching import Batch, cut_by_tokens, epoch_order, longest_sequence
from auto_bot_tuner.training.config import ModelConfig
from auto_bot_tuner.training.loop import Trainer
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.lora import adaptable_layers, choose_targets

SEARCHED_STEPS = 2000  # for the largest micro-batch


@dataclass(frozen=True)
class DryRun:
    """All that was found out."""

    estimate: Estimate
    duration: Duration | None  # None: a step would not fit, so none was measured
    available: int
    advice: Advice


def dry_run(trainer: Trainer) -> DryRun:
    """Measure.

    Raises:
        UserError: what the run itself would end with, in its rows, its models or its rewards.
    """
    if engine.is_sharded(trainer.accelerator) or engine.is_partitioned(trainer.accelerator):
        raise UserError(
            "--dry-run measures one process that holds everything: start it without accelerate; what FSDP and "
            "DeepSpeed divide is in docs/scaling.md"
        )
    trainer.check_data()
    device = trainer.accelerator.device
    available = memory_of.available(device)
    memory = memory_of.held(trainer)
    memory = replace(memory, program=memory_of.program(device, memory))
    with untouched(trainer):
        written = None
        if isinstance(trainer, OnPolicyTrainer):
            written = rollouts.write_some(trainer)
        work = workload(trainer)
        memory = replace(memory, **pass_bytes(trainer, work, memory, available, written))
        estimate = Estimate(memory, work)
        # A step that does not fit is not tried: on a CPU the system would end the process, without a word.
        spent = duration(trainer, written) if memory.total <= available else None
    return DryRun(estimate, spent, available, fits(estimate, available))


def duration(trainer: Trainer, written: Written | None) -> Duration:
    if written is not None and isinstance(trainer, OnPolicyTrainer):
        return rollouts.duration(trainer, written)
    return time_of.duration(trainer)


def pass_bytes(
    trainer: Trainer, work: Workload, memory: Memory, available: int, written: Written | None
) -> dict[str, int]:
    """Activations and logits of the largest micro-batch, and what writing takes.

    One row is measured first. The largest micro-batch itself only where it will fit by that.
    """
    if memory.total > available:  # not even the weights with their gradients fit: nothing can be tried
        return {}
    if written is not None and isinstance(trainer, OnPolicyTrainer):
        batches = rollouts.batches_of(trainer, written.rollout)
        batch = max(batches, key=lambda one: read_tokens(trainer, one))
        activations = scaled(trainer, batch, work.tokens)
        found = {"activations": activations, "logits": logits_of(trainer, batch)}
        return found | {"writing": rollouts.writing_bytes(trainer, work.writing_tokens)}
    rows = largest_cut(trainer)
    one = trainer.collate(trainer.train_dataset, rows[:1])
    batch = trainer.collate(trainer.train_dataset, rows)
    found = {"activations": scaled(trainer, one, read_tokens(trainer, batch)), "logits": logits_of(trainer, batch)}
    if len(rows) > 1 and replace(memory, **found).total <= SHARE * available:
        found["activations"] = scaled(trainer, batch, read_tokens(trainer, batch))
    return found


def scaled(trainer: Trainer, batch: Batch, tokens: int) -> int:
    """Activations of `tokens` tokens, by those of this batch. With checkpointing, and one layer's that it computes
    again."""
    share = tokens / max(read_tokens(trainer, batch), 1)
    saved = saved_by(trainer, batch)
    if trainer.config.gradient_checkpointing and trainer.accelerator.device.type != "cuda":
        with checkpointing_off(trainer.model):
            saved += saved_by(trainer, batch) // layers_of(trainer.model)
    return int(saved * share)


@contextmanager
def checkpointing_off(model: Any) -> Iterator[None]:
    modules = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in modules:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in modules:
            module.gradient_checkpointing = True


def read_tokens(trainer: Trainer, batch: Batch) -> int:
    """Tokens that go through the model: real ones where rows travel flat, a shared prompt once; else padding too."""
    if getattr(trainer.accelerator.unwrap_model(trainer.module), "is_flat", False):
        shared = batch["shared"].sum() if "shared" in batch.tensors else 0
        return int(batch["lengths"].sum() - shared)
    return batch["input_ids"].numel()


def largest_cut(trainer: Trainer) -> list[int]:
    """The rows of the micro-batch with the most padded tokens in the first epoch's steps."""
    lengths, size = trainer.lengths, trainer.rows_per_step
    order = epoch_order(len(lengths), trainer.config.seed, 0)
    steps = min(trainer.total_steps, trainer.steps_per_epoch, SEARCHED_STEPS)
    cuts = (
        cut
        for step in range(steps)
        for cut in cut_by_tokens(order[step * size : (step + 1) * size], lengths, trainer.token_budget)
    )
    return max(cuts, key=lambda cut: len(cut) * lengths[cut[0]])


def workload(trainer: Trainer) -> Workload:
    """What the memory depends on, of this trainer."""
    model: Any = trainer.model
    frozen = [p for p in model.parameters() if not p.requires_grad]
    largest_frozen = max(frozen, key=torch.Tensor.numel) if frozen else None
    hidden = model.config.get_text_config().hidden_size
    layers = layers_of(model)
    if isinstance(trainer, OnPolicyTrainer):
        tokens, least = rollouts.largest(trainer)
        writing, least_writing = rollouts.writing_tokens(trainer)
        longest = trainer.config.max_new_tokens
    else:
        cut = largest_cut(trainer)
        tokens, least = len(cut) * trainer.lengths[cut[0]], max(trainer.lengths)
        writing = least_writing = 0
        longest = longest_sequence(trainer.train_dataset)
    return Workload(
        device=trainer.accelerator.device.type,
        tokens=tokens,
        least_tokens=least,
        longest=longest,
        kept_per_token=layers * hidden * 4,
        layers=layers,
        is_checkpointed=trainer.config.gradient_checkpointing,
        is_adapted=bool(frozen),
        adapter_bytes=adapter_bytes(model),
        is_half=largest_frozen is not None and largest_frozen.element_size() < 4,
        is_quantized=any(not p.is_floating_point() for p in frozen),
        writing_tokens=writing,
        least_writing=least_writing,
    )


def layers_of(model: Any) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


def adapter_bytes(model: Any) -> int:
    """What a LoRA adapter of the default rank on this model would hold."""
    if not all(p.requires_grad for p in model.parameters()):  # it has one, or another small part that trains
        return sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    base = base_of(model)
    layers = adaptable_layers(base)
    targets = choose_targets(base.config.model_type, layers, ())
    chosen: list[Any] = [layer for name, layer in layers.items() if name.split(".")[-1] in targets]
    return sum(ModelConfig.lora_r * sum(layer.weight.shape) * 4 for layer in chosen)
