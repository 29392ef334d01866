"""The engine under the loop: Hugging Face Accelerate, set up by our settings, and the model made ready for it.

Accelerate gives one way to write device moves, autocast, loss scaling and several processes (DDP), so the
loop reads as plain PyTorch. Where the weights are cut up between the processes (FSDP), `sharding.py` does it, and
Accelerate keeps the rest.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from torch import nn

from auto_bot_tuner.training import sharding
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
    accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision), cpu=device.type == "cpu")
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise UserError(
            "DeepSpeed is not supported: PyTorch's FSDP does the same; launch with configs/launch/zero2.yaml (stage 2) or "
            "configs/launch/fsdp.yaml (stage 3)"
        )
    if is_sharded(accelerator):
        sharding.check_settings(precision, config.compile)
    return accelerator


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the weights are cut up between processes."""
    return sharding.is_wanted() and accelerator.num_processes > 1


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


def wrap(accelerator: Accelerator, module: Any) -> nn.Module:
    """The module as Accelerate runs it: on its device, in its precision, synchronised between processes.

    Raises:
        UserError: the weights are to be sharded, and the method has more than one trained model.
    """
    if not is_sharded(accelerator):
        return accelerator.prepare(module)
    if not hasattr(module, "model"):
        raise UserError(
            "PPO does not run on sharded weights: launch with configs/launch/ddp.yaml and --lora, or use GRPO, which "
            "trains one model"
        )
    module.to(accelerator.device)
    sharding.shard(module.model, causal_model(module.model))
    forward = module.forward

    def in_precision(*args: Any, **kwargs: Any) -> Any:
        with accelerator.autocast():
            return forward(*args, **kwargs)

    module.forward = in_precision
    return module


def exchange(accelerator: Accelerator, module: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
    """Processes exchange gradients once, with the last micro-batch of a step.

    Sharded ones each time: a process that waited would have to hold the whole gradient.
    """
    return nullcontext() if is_last or is_sharded(accelerator) else accelerator.no_sync(module)


def total(accelerator: Accelerator, values: list[float]) -> list[float]:
    """Sums over all processes, in one exchange."""
    if accelerator.num_processes == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    reduced: Any = accelerator.reduce(tensor, reduction="sum")
    return [float(value) for value in reduced]
