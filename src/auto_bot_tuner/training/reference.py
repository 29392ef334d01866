"""The reference: what the policy was before training. It only reads; it never learns.

DPO, PPO and GRPO compare the policy with it, so a wrong reference is a wrong loss that trains without complaint. Four
ways to have one:

    copy          a frozen deep copy of the policy, or a model that the caller gives
    adapter_off   the base under a new adapter, which starts at zero: switched off it *is* the starting policy
    adapter_copy  going on from a trained adapter: that adapter a second time, frozen, beside the one that trains
    precomputed   log-probabilities of all rows, computed once before training (`dpo/stored_logprobs.py`)

Switching the adapter off when going on from a trained one would compare with the base, not with the start: the classic
mistake, which shows as a first loss that is not ln 2.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from auto_bot_tuner.training import sharding
from auto_bot_tuner.training.batching import Batch
from auto_bot_tuner.training.logprobs import SequenceLogprobs, causal_model
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.saving import is_adapted

REFERENCE_ADAPTER = "reference"
SAMPLED_VALUES = 1000  # of each tensor: two trainings of one base differ in every tensor

WORDS = {
    "given": "the model that was given",
    "copy": "a frozen copy of the starting policy",
    "adapter_off": "the starting policy: the base model with the new adapter switched off",
    "adapter_copy": "the starting policy: the base model with the starting adapter, loaded a second time and frozen",
    "precomputed": "log-probabilities of the starting policy, computed once before training",
    "none": "none, the loss does not need one",
}


def create_reference_model(policy_model: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """A frozen deep copy of the policy as it is now, in eval mode, on `device` (None: where the policy is)."""
    here = next(policy_model.parameters()).device
    with sharding.gathered(policy_model):
        reference = copy.deepcopy(sharding.plain(policy_model)).requires_grad_(False).eval()
    reference.zero_grad(set_to_none=True)
    return reference.to(here if device is None else device)


class Reference:
    """A frozen model, or a frozen state of the policy, that gives log-probabilities."""

    def __init__(
        self,
        model: nn.Module,
        switched: Callable[[], AbstractContextManager[Any]] = nullcontext,
        temperature: float = 1.0,
    ) -> None:
        """`switched`: a block inside of which `model` is the reference. `temperature`: as the policy is sampled."""
        self.module, self.switched = SequenceLogprobs(model, temperature), switched

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> torch.Tensor:
        """Log-probability of each trained token (S, T), 0 elsewhere, on the batch's device."""
        here, there = batch["input_ids"].device, next(self.module.parameters()).device
        names = ("input_ids", "labels", "lengths", "shared")
        with self.switched():
            found: torch.Tensor = self.module(*(batch[name].to(there) for name in names))
        return found.to(here)


def choose_reference(policy: nn.Module, given: nn.Module | None, wanted: str, loss_without: str = "") -> str:
    """One of `WORDS`: the one that is wanted or, for `auto`, what is exact and costs least.

    Args:
        loss_without: the loss, where it is one that has no reference.

    Raises:
        UsageError: the wish, the loss and the models contradict each other.
    """
    is_new = is_adapted(policy) and is_new_adapter(policy)
    if given is not None:
        if loss_without:
            raise UsageError(f"loss {loss_without} has no reference: give reference_model=None")
        if wanted not in ("auto", "copy", "precomputed"):
            raise UsageError(
                f"a reference_model was given, so reference {wanted} would ignore it: leave one of them out"
            )
        check_stays_frozen(given, policy)
        return "precomputed" if wanted == "precomputed" else "given"
    if wanted == "adapter_off" and not is_new:
        cure = "reference adapter_copy" if is_adapted(policy) else "reference copy"
        raise UsageError(f"with no new adapter to switch off, the base is not the starting policy: use {cure}")
    if wanted == "adapter_copy" and not is_adapted(policy):
        raise UsageError("reference adapter_copy needs a policy with an adapter (LoRA): use reference copy")
    if wanted != "auto":
        return wanted
    if loss_without:
        return "none"
    # With an adapter the frozen base is there already: no memory but for a second adapter's, exact to the bit. Without
    # one a copy is exact too and costs a quarter more memory (weights, beside weights, gradient and AdamW's two
    # averages). Precomputing costs as much time as one epoch of a copy and no memory: for many epochs, or when it is
    # short. It is no default: of a run that is stopped early most would be wasted.
    return ("adapter_off" if is_new else "adapter_copy") if is_adapted(policy) else "copy"


def build_reference(kind: str, policy: Any, given: nn.Module | None, temperature: float = 1.0) -> Reference | None:
    """The reference of this kind, from the policy as it is before training."""
    match kind:
        case "none":
            return None
        case "adapter_off":
            return Reference(policy, policy.disable_adapter, temperature)
        case "adapter_copy":
            add_frozen_adapter(policy)
            return Reference(policy, lambda: with_adapter(policy, REFERENCE_ADAPTER), temperature)
        case "precomputed" if given is None:
            return Reference(policy, temperature=temperature)  # asked before the first step, when the policy is it
        case _:
            frozen = create_reference_model(policy) if given is None else given.requires_grad_(False).eval()
            reference = Reference(frozen, temperature=temperature)
            if sharding.of(policy) is not None:
                sharding.shard(frozen.to(next(policy.parameters()).device), causal_model(frozen), beside=policy)
            return reference


def is_new_adapter(policy: nn.Module) -> bool:
    """Whether the adapter does nothing yet: every B is zero, so that the base alone is the policy."""
    seconds = [p for name, p in policy.named_parameters() if ".lora_B." in name or ".lora_embedding_B." in name]
    is_lora_alone = not any(".modules_to_save." in name for name, _ in policy.named_parameters())
    return is_lora_alone and bool(seconds) and not any(sharding.whole(p).any() for p in seconds)


def add_frozen_adapter(policy: Any) -> None:
    """Put the policy's adapter beside itself a second time, frozen, under a name of its own."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    trained = policy.active_adapter
    if REFERENCE_ADAPTER in policy.peft_config:  # of an earlier trainer of this policy, which started elsewhere
        policy.delete_adapter(REFERENCE_ADAPTER)
    with sharding.gathered(policy):  # the second one is small, and stays whole
        weights = get_peft_model_state_dict(sharding.plain(policy), adapter_name=trained, save_embedding_layers=False)
    policy.add_adapter(REFERENCE_ADAPTER, copy.deepcopy(policy.peft_config[trained]))
    set_peft_model_state_dict(policy, weights, adapter_name=REFERENCE_ADAPTER)
    with with_adapter(policy, REFERENCE_ADAPTER):
        pass  # leaves it frozen: peft freezes what is not active


@contextmanager
def with_adapter(policy: Any, name: str) -> Iterator[None]:
    """The policy with another of its adapters; afterwards the one before is active and trainable again."""
    before = policy.active_adapter
    policy.set_adapter(name)
    try:
        yield
    finally:
        policy.set_adapter(before)


def check_stays_frozen(given: nn.Module, policy: nn.Module) -> None:
    """The reference shares no weight with what is trained.

    Raises:
        UsageError: it does, and would move along.
    """
    trained = {id(p) for p in policy.parameters() if p.requires_grad}
    if given is policy or any(id(p) in trained for p in given.parameters()):
        raise UsageError(
            "reference_model shares weights with the policy and would be trained along: give "
            "create_reference_model(policy_model, device), or None"
        )


def are_equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same weights, to the bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    if mine.keys() != theirs.keys():
        return False
    # Each of them, also after one that differs: sharded weights are gathered by all processes together.
    same = [
        value.dtype == theirs[name].dtype and torch.equal(sharding.whole(value), theirs[name].to(value.device))
        for name, value in mine.items()
    ]
    return all(same)


def weights_digest(model: nn.Module, values_per_tensor: int | None = None) -> str:
    """A short key of the weights (of some values of each tensor), but for those of an adapter that does nothing."""
    ignored = ".lora_" if is_adapted(model) and is_new_adapter(model) else "\0"
    state = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        if ignored not in name:
            values = sharding.whole(parameter.detach()).flatten()[:values_per_tensor].cpu()
            state.update(f"{name} {parameter.dtype} {list(parameter.shape)}".encode())
            state.update(values.contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
