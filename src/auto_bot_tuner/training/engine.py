"""The engine under the loop: Hugging Face Accelerate, set up by our settings, and the model made ready for it.

Accelerate gives one way to write device moves, autocast, loss scaling and several processes (DDP), so the
loop reads as plain PyTorch. What is cut up between the processes, `sharding.py` (FSDP) and `zero.py` (DeepSpeed) cut
up; Accelerate keeps the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from auto_bot_tuner.training import sharding, zero
from auto_bot_tuner.training.config import TrainingConfig
from auto_bot_tuner.training.logprobs import causal_model
from auto_bot_tuner.utils.errors import UserError


def build_accelerator(config: TrainingConfig, model: nn.Module) -> Accelerator:
    """An Accelerator for the device that the model is on and the precision that the config asks for."""
    device = next(model.parameters()).device
    precision = choose_precision(config.precision, device)
    # Accelerate keeps one state per process and refuses a second precision. Stages of a pipeline run one after the
    # other in one process, each with its own: start from a clean one (the process group itself stays).
    AcceleratorState._reset_state()
    GradientState._reset_state()  # a run that died between two micro-batches left it waiting for more
    with left_to_us():
        accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision), cpu=device.type == "cpu")
    if is_sharded(accelerator):
        sharding.check_settings(precision, config.compile)
    if is_partitioned(accelerator):
        zero.check_settings(precision)
    return accelerator


@contextmanager
def left_to_us() -> Iterator[None]:
    """Accelerate does not hear meanwhile what else is asked for: it would want to do it itself, its way."""
    names = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    asked = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(asked)


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the weights are cut up between processes."""
    return sharding.is_wanted() and accelerator.num_processes > 1


def is_partitioned(accelerator: Accelerator) -> bool:
    """Whether gradients and the optimiser's state are, by DeepSpeed."""
    return zero.is_wanted() and accelerator.num_processes > 1


def choose_precision(wanted: str, device: torch.device) -> str:
    """auto: bfloat16 where the GPU computes in it, else float32. bfloat16 has float32's range: no loss scale."""
    if wanted == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if wanted == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 needs a GPU: use --precision bf16 or fp32 on a CPU")
    return wanted


def prepare_model(model: nn.Module, config: TrainingConfig) -> None:
    """Set what training changes about a model: weight types, dropout, checkpointing, compilation."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            # A bfloat16 weight has 8 bits of precision: adding a step of lr 1e-6 rounds back to the old value.
            parameter.data = parameter.data.float()
    set_dropout(model, config.dropout)
    if config.gradient_checkpointing:
        # transformers is renaming it: the new name where it is there, or a warning at every run.
        inner = causal_model(model)
        enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if config.compile:
        # The trunk only: the loss picks trained positions, a number that differs in each batch.
        causal_model(model).base_model.compile(dynamic=True)


def set_dropout(model: nn.Module, probability: float) -> None:
    """Every dropout of the model, but for the adapters', which have a setting of their own (lora_dropout)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
            module.p = probability
        if isinstance(getattr(module, "attention_dropout", None), float):  # Llama's kind keeps a number instead
            module.attention_dropout = probability


def wrap(
    accelerator: Accelerator, module: Any, build_optimizer: Callable[[], torch.optim.Optimizer], config: TrainingConfig
) -> tuple[Any, Any]:
    """The module as it is run, on its device, in its precision, synchronised between processes; and its optimiser.

    Raises:
        UserError: something is to be cut up, and the method has more than one trained model.
    """
    if not (is_sharded(accelerator) or is_partitioned(accelerator)):
        return accelerator.prepare(module), accelerator.prepare(build_optimizer())
    if not hasattr(module, "model"):
        raise UserError(
            "PPO trains two models and runs with neither FSDP nor DeepSpeed: launch with configs/launch/ddp.yaml and "
            "--lora, or use GRPO, which trains one"
        )
    module.to(accelerator.device)
    forward = module.forward

    def in_precision(*args: Any, **kwargs: Any) -> Any:
        with accelerator.autocast():
            return forward(*args, **kwargs)

    module.forward = in_precision
    if is_partitioned(accelerator):
        return zero.partition(module, build_optimizer(), config)
    sharding.shard(module.model, causal_model(module.model))
    return module, accelerator.prepare(build_optimizer())


def backward(accelerator: Accelerator, optimizer: Any, loss: torch.Tensor, is_last: bool) -> None:
    """Add a micro-batch's gradient to the step's."""
    if isinstance(optimizer, zero.ZeroOptimizer):
        optimizer.backward(loss, is_last)
    else:
        accelerator.backward(loss)


def waits(accelerator: Accelerator, module: nn.Module, is_last: bool) -> Any:
    """A block in which processes exchange no gradient, but for the last micro-batch of a step.

    Where gradients are cut up they exchange each time: a process that waited would have to hold the whole.
    """
    exchanges = is_last or is_sharded(accelerator) or is_partitioned(accelerator)
    return nullcontext() if exchanges else accelerator.no_sync(module)


def gradient_norm(accelerator: Accelerator, optimizer: Any, parameters: list[nn.Parameter], largest: float) -> float:
    """Scale the gradient down to the length `largest`, where it is longer. Returns its norm before that.

    (DeepSpeed scales it in its step.)
    """
    if isinstance(optimizer, zero.ZeroOptimizer):
        return optimizer.norm()
    norm: Any = accelerator.clip_grad_norm_(parameters, largest)
    return float(sharding.whole(norm))


def total(accelerator: Accelerator, values: list[float]) -> list[float]:
    """Sums over all processes, in one exchange."""
    if accelerator.num_processes == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    reduced: Any = accelerator.reduce(tensor, reduction="sum")
    return [float(value) for value in reduced]
