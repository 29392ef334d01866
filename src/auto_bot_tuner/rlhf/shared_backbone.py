"""Four models in little more memory than one: with LoRA they differ in their adapters, and share what is frozen.

    policy          base + adapter
    value network   base + adapter + value head
    reward model    base + adapter + score head     where it was trained as an adapter on the same base
    reference       base                            (the policy with its adapter switched off)

Each stays a network of its own, which reads *the same tensors* wherever it and the policy hold the same frozen ones.
The other way, four adapters inside of one network, takes as much memory and one more thing to get right at every pass:
which adapter is on. A backward pass that recomputes activations (gradient checkpointing) or a library that freezes
whatever is not on would then train the wrong one, in silence.

Weights are compared, not names: a base that was fine-tuned in between, merged, or loaded in another type is another
base, and stays beside this one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

# peft keeps a layer's own weights under these names, once it has an adapter or a trained copy.
WRAPPERS = (".base_layer", ".original_module")


def share_backbone(policy: nn.Module, *models: nn.Module) -> int:
    """Let the models read the policy's own frozen weights where theirs are equal to the bit; the bytes that this frees.

    Any module is taken that holds transformers models: a `ValueNetwork`, a `RewardModel`, a `RewardEnsemble`, a
    reference. What either side trains is left alone, so freeze the reward model first; without LoRA the policy trains
    everything, and nothing is shared. Weights in 4 bits are not compared.
    """
    before = bytes_of(policy, *models)
    frozen = {name: p for backbone in backbones(policy) for name, _, _, p in weights(backbone) if not p.requires_grad}
    for backbone in (found for model in models for found in backbones(model)):
        for name, module, attribute, p in list(weights(backbone)):
            if name in frozen and not p.requires_grad and are_equal(p, frozen[name]):
                setattr(module, attribute, frozen[name])
    return before - bytes_of(policy, *models)


def are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To the bit, in type and place. A 4-bit weight is codes without their scale, which lies elsewhere: never equal."""
    alike = one.dtype == other.dtype and one.shape == other.shape and one.device == other.device
    return alike and one.is_floating_point() and torch.equal(one, other)


def backbones(model: nn.Module) -> list[PreTrainedModel]:
    """The transformers models inside, outermost ones only."""
    found: list[PreTrainedModel] = []
    inside: set[int] = set()
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and id(module) not in inside:
            found.append(module)
            inside.update(id(part) for part in module.modules())
    return found


def weights(backbone: PreTrainedModel) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Each weight: its name in the bare trunk, the module that holds it, its name there, and itself.

    The same weight is `transformer.h.0.attn.c_attn.base_layer.weight` in an adapted GPT-2 and `h.0.attn.c_attn.weight`
    in its trunk. A tied weight comes once for each of its places.
    """
    for path, module in backbone.named_modules():
        for attribute, p in module.named_parameters(recurse=False):
            name = f"{path}.{attribute}".removeprefix(f"{backbone.base_model_prefix}.")
            for wrapper in WRAPPERS:
                name = name.replace(wrapper, "")
            yield name, module, attribute, p


def bytes_of(*models: nn.Module) -> int:
    """Memory of all parameters and buffers; what several models hold together counts once."""
    storages = [t.untyped_storage() for model in models for t in (*model.parameters(), *model.buffers())]
    return sum({(storage.device, storage.data_ptr()): storage.nbytes() for storage in storages}.values())
