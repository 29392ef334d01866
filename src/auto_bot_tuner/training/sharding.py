"""Weights cut up between processes: everything that knows of it.

PyTorch's FSDP2 (`fully_shard`; the idea is ZeRO's stage 3, Rajbhandari et al. 2020, 1910.02054) leaves each of N
processes 1/N of every weight, of its gradient and of AdamW's two averages. A layer's weights are gathered when it is
needed and let go again; its gradient is summed over the processes and cut up at once. The loop stays what it is. Three
places must know:

    a forward pass      goes through the root's hooks (`through_root`): ours reads trunk and head, and not `model(…)`
    one process alone   needs whole weights, to write samples, and rollouts (`gathered`)
    a file              holds whole weights, with the names that they always had (`plain`)

Between passes a weight is a `DTensor`, of which `whole` makes a tensor.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import nn

from auto_bot_tuner.utils.errors import UserError

Method = TypeVar("Method", bound=Callable[..., Any])
ModelKind = TypeVar("ModelKind", bound=nn.Module)
MARK = "_shards"  # where each module in and around a sharded model keeps what is known of it


@dataclass
class Shards:
    """A transformers model whose weights are cut up."""

    root: Any  # the model itself: its hooks gather what lies outside of the layers (embedding, norm, head)
    layers: list[Any]
    keeps_layers: bool  # from the forward pass until the backward pass: less traffic, more memory (ZeRO stage 2)
    skeletons: dict[nn.Module, nn.Module]  # of each module in and around it: a copy without weights
    companions: list[Shards] = field(default_factory=list)  # a reference that is asked wherever this model is
    depth: int = 0  # how many blocks of `gathered` are open

    @property
    def parts(self) -> list[Any]:
        return [self.root, *self.layers]

    def let_go(self) -> None:
        """Keep this process's shards alone, unless a block of `gathered` is open."""
        if self.depth == 0:
            for module in self.parts:
                module.reshard()


def of(module: nn.Module) -> Shards | None:
    """The sharded model that the module is part of, or is around; None where nothing is sharded."""
    return module.__dict__.get(MARK)


# ---- what was asked for ----


def is_wanted() -> bool:
    """Whether `accelerate launch` was asked to shard, by a file as configs/launch/fsdp.yaml."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_settings(precision: str, compiles: bool) -> None:
    """
    Raises:
        UserError: the launch file or the run asks for what does not go together with sharded weights.
    """
    names = ("VERSION", "OFFLOAD_PARAMS", "ACTIVATION_CHECKPOINTING", "CPU_RAM_EFFICIENT_LOADING")
    version, offloads, recomputes, skips = (os.environ.get(f"FSDP_{name}", "").lower() for name in names)
    wrong = {
        "only PyTorch's newer FSDP is supported: set fsdp_version: 2 in the launch file": version != "2",
        "fsdp_offload_params is not supported: set it to false, and use --lora or more GPUs": offloads == "true",
        "fsdp_activation_checkpointing is not read: set it to false, and use --gradient-checkpointing": recomputes
        == "true",
        # transformers would then leave the weights of all processes but the first at random numbers.
        "every process loads the weights: set fsdp_cpu_ram_efficient_loading: false": skips == "true",
        "fp16's loss scale does not go together with sharded weights: use --precision bf16": precision == "fp16",
        "sharded weights are not compiled: leave --compile out, or launch with configs/launch/ddp.yaml": compiles,
    }
    for message, is_asked_for in wrong.items():
        if is_asked_for:
            raise UserError(message)


# ---- cutting ----


def shard(model: nn.Module, root: Any, beside: nn.Module | None = None) -> None:
    """Cut the weights of `model` up between all processes, in place; each must hold all of them before.

    Args:
        root: the transformers model inside of `model`, or itself.
        beside: a sharded model with which this one is gathered.

    Raises:
        UserError: 4-bit weights cannot be cut.
    """
    if getattr(root, "is_loaded_in_4bit", False):
        raise UserError("4-bit weights cannot be sharded: launch with configs/launch/ddp.yaml")
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # seconds, for those who shard

    names = set(getattr(root, "_no_split_modules", None) or ())  # transformers knows its layers
    layers = [module for module in root.modules() if type(module).__name__ in names]
    keeps_layers = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "false"
    skeletons = dict(zip(model.modules(), without_weights(model).modules(), strict=True))
    shards = Shards(root, layers, keeps_layers, skeletons)
    for module in model.modules():
        module.__dict__[MARK] = shards
    if beside is not None and (first := of(beside)) is not None:
        first.companions.append(shards)
    for layer in layers:
        fully_shard(layer, reshard_after_forward=not keeps_layers)
    fully_shard(root)
    root.set_reshard_after_forward(True, recurse=False)  # between passes every weight is a shard
    # The backward pass gathers the layer before while one is computed. Left to itself FSDP goes by the passes that this
    # process has made, and one process may have made more than another: each would then wait for another layer.
    for module, before in zip([*layers, root], [root, *layers], strict=True):
        module.set_modules_to_backward_prefetch([before])
    root.compute = lambda computation, *args, **kwargs: computation(*args, **kwargs)
    register_fsdp_forward_method(root, "compute")
    root.compute(lambda: None)  # the first pass decides whose hooks are the root's


def without_weights(model: nn.Module) -> nn.Module:
    """A copy whose parameters take no memory; tied ones stay tied, and configs are the same objects."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo | configs_of(model))


def configs_of(model: nn.Module) -> dict[int, Any]:
    """For `deepcopy`: what a model says of itself is shared with its copies."""
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    return {id(config): config for config in configs}


# ---- computing ----


def through_root(method: Method) -> Method:
    """For a method that computes with the weights of `self.model`: they are gathered for it, layer by layer."""

    @functools.wraps(method)
    def compute(self: Any, *args: Any, **kwargs: Any) -> Any:
        shards = of(self.model)
        if shards is None:
            return method(self, *args, **kwargs)
        result = shards.root.compute(method, self, *args, **kwargs)
        if not torch.is_grad_enabled():
            shards.let_go()  # no backward pass will
        return result

    return cast(Method, compute)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Every weight whole on every process meanwhile, so that one process alone may compute. All of them must take part.

    Takes the memory of the whole model. Blocks may be nested: the outermost gathers.
    """
    first = of(model)
    together = [] if first is None else [first, *first.companions]
    for shards in together:
        shards.depth += 1
        if shards.depth == 1:
            for module in shards.parts:
                module.unshard()
                module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for shards in together:
            shards.depth -= 1
            if shards.depth == 0:
                shards.root.set_reshard_after_forward(True, recurse=False)
                for layer in shards.layers:
                    layer.set_reshard_after_forward(not shards.keeps_layers, recurse=False)
            shards.let_go()


# ---- whole weights ----


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which this process may hold a shard. Every process must take part."""
    full: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # a DTensor's
    return full


def shard_like(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard of a whole tensor, cut as the parameter is; the tensor itself where that is whole."""
    if not hasattr(parameter, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]  # a DTensor's
    return distribute_tensor(
        tensor.to(parameter.device), mesh, placements, src_data_rank=None
    )  # each has it: no traffic


@torch.no_grad()
def plain(model: ModelKind) -> ModelKind:
    """A copy on the CPU as it was before it was cut, with the weights of now, to be saved: inside of `gathered`.

    The model itself where nothing is sharded.
    """
    shards = of(model)
    if shards is None:
        return model
    now = dict(model.named_parameters())
    skeleton = shards.skeletons[model]
    memo: dict[int, Any] = {
        id(p): nn.Parameter(now[name].to("cpu", copy=True), p.requires_grad) for name, p in skeleton.named_parameters()
    }
    return cast(ModelKind, copy.deepcopy(skeleton, memo | configs_of(skeleton)).to("cpu"))


@torch.no_grad()
def load_into(model: ModelKind, load: Callable[[ModelKind], None]) -> None:
    """`load` fills a model in place: here a plain copy, of which every process then takes its shards."""
    if of(model) is None:
        load(model)
        return
    with gathered(model):
        filled = plain(model)
    load(filled)
    now = dict(model.named_parameters())
    for name, tensor in filled.named_parameters():
        now[name].copy_(shard_like(now[name], tensor))
