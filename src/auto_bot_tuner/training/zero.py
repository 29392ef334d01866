"""DeepSpeed's ZeRO, stages 1 and 2 (Rajbhandari et al. 2020, 1910.02054): everything that knows of DeepSpeed.

Every process holds all weights, and a share of AdamW's two averages (stage 1) and of the gradient (stage 2). So forward
passes, samples, rollouts and saving need to know nothing. What FSDP has not: the averages, and the step itself, may be
on the CPU (`offload_optimizer_device: cpu`), where memory is cheap.

The loop stays what it is. DeepSpeed's engine takes three calls of it: `backward`, told which micro-batch is a step's
last; the optimiser's `step`, in which it clips; and the norm of the gradient, which is asked for before that. A step's
micro-batches have our weights, not DeepSpeed's equal ones: its own count of accumulation steps stays 1.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from auto_bot_tuner.utils.errors import UserError

if TYPE_CHECKING:
    from auto_bot_tuner.training.config import TrainingConfig

AVERAGES = ("exp_avg", "exp_avg_sq")


def is_wanted() -> bool:
    """Whether `accelerate launch` was asked for it, by a file as configs/launch/deepspeed_zero2.yaml."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def setting(name: str) -> str:
    """Of the launch file, as `accelerate launch` passes it on."""
    return os.environ.get(f"ACCELERATE_{name}", "").lower()


def check_settings(precision: str) -> None:
    """
    Raises:
        UserError: the launch file or the run asks for what is not done here.
    """
    stage = setting("DEEPSPEED_ZERO_STAGE")
    wrong = {
        f"of DeepSpeed's ZeRO stages 1 and 2 are supported, not {stage or 'none'}: for stage 3 launch with "
        "configs/launch/fsdp.yaml": stage not in ("1", "2"),
        "offload_param_device is not supported: set it to none": setting("DEEPSPEED_OFFLOAD_PARAM_DEVICE")
        not in ("", "none"),
        "offload_optimizer_device is cpu or none": setting("DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE")
        not in ("", "none", "cpu"),
        "deepspeed_config_file is not read: take configs/launch/deepspeed_zero2.yaml": setting("DEEPSPEED_CONFIG_FILE")
        not in ("", "none"),
        "fp16 is not supported with DeepSpeed: use --precision bf16": precision == "fp16",
    }
    for message, is_asked_for in wrong.items():
        if is_asked_for:
            raise UserError(message)


def partition(module: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig) -> tuple[Any, ZeroOptimizer]:
    """The module as DeepSpeed runs it, and the optimiser whose state is cut up.

    Raises:
        UserError: DeepSpeed is not installed.
    """
    try:
        import deepspeed  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise UserError("DeepSpeed is not installed: uv pip install deepspeed") from error
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)  # its pages about itself
    device = setting("DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE")
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # of rows that DeepSpeed would load: ours come from the loop
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "zero_allow_untested_optimizer": True,  # PyTorch's AdamW, as everywhere here
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": int(setting("DEEPSPEED_ZERO_STAGE")),
            "offload_optimizer": {"device": device or "none"},
        },
    }
    engine, inner, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
    return engine, ZeroOptimizer(engine, inner)


class ZeroOptimizer:
    """DeepSpeed's optimiser with the names of PyTorch's."""

    def __init__(self, engine: Any, inner: Any) -> None:
        self.engine, self.inner = engine, inner
        # AdamW would make its state in its first step, group by group, and DeepSpeed look for it after the first group.
        for flat in self.flat_weights():
            averages = {name: torch.zeros_like(flat) for name in AVERAGES}
            inner.optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **averages}
        inner._lazy_init_hp_params_optimizer_state()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self.inner.param_groups
        return groups

    @property
    def state(self) -> ZeroOptimizer:
        return self

    def backward(self, loss: torch.Tensor, is_last: bool) -> None:
        """Gradients of a micro-batch; those of a step's last one complete the sum over processes."""
        self.engine.set_gradient_accumulation_boundary(is_last)
        self.engine.backward(loss, scale_wrt_gas=False)

    def norm(self) -> float:
        """Of the whole gradient, before it is clipped. DeepSpeed says -1 where it is no number."""
        found = float(self.inner.scaled_global_norm())
        return found if found >= 0 else float("inf")

    def step(self) -> None:
        """Clip and step."""
        self.engine.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """`step` has."""

    def get(self, parameter: nn.Parameter, default: Any = None) -> dict[str, torch.Tensor]:
        """AdamW's state of a weight, whole. Every process must take part."""
        from deepspeed import utils  # type: ignore[import-not-found,import-untyped,unused-ignore]

        averages = {key: utils.safe_get_full_optimizer_state(parameter, key) for key in AVERAGES}
        return {"step": self.inner.optimizer.state[self.flat_weights()[0]]["step"].clone(), **averages}

    def load(self, parameter: nn.Parameter, key: str, tensor: torch.Tensor) -> None:
        """What `get` gave, back: this process keeps its share."""
        from deepspeed import utils  # type: ignore[import-not-found,import-untyped,unused-ignore]

        if key != "step":
            utils.safe_set_full_optimizer_state(parameter, tensor, key)
            return
        for flat in self.flat_weights():  # one count for all weights
            self.inner.optimizer.state[flat]["step"].copy_(tensor)

    def flat_weights(self) -> list[torch.Tensor]:
        """This process's share of the weights, one tensor for each group of them."""
        return [group["params"][0] for group in self.param_groups]

    def take_weights(self) -> None:
        """Weights were loaded into the model: steps go on from them."""
        self.inner.refresh_fp32_params()


def full_gradient(parameter: nn.Parameter) -> torch.Tensor | None:
    """The gradient of a weight, also where each process holds a share of it: then every process must take part."""
    if parameter.grad is not None or not hasattr(parameter, "_hp_mapping"):
        return parameter.grad
    from deepspeed import utils  # type: ignore[import-not-found,import-untyped,unused-ignore]

    found: torch.Tensor | None = utils.safe_get_full_grad(parameter)
    return found
