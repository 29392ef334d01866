r"""What a run keeps in memory, part by part: counted from the tensors that are there, and from those of one real pass.

    weights + AdamW's two averages + copies     there all the time, and of these the largest:
    gradients + activations + logits            in a step
    the rollouts' key-value cache               while the policy writes
    a merged model, and the bytes of a file     while it is saved

Activations are not guessed from the architecture: autograd is asked what it saves for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from auto_bot_tuner.utils import machine, saving

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer

ADAM_AVERAGES = 2  # of the gradient, and of its square
ADAM_CLOCK = 4  # bytes: each tensor's own count of steps, a float32


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a run, by what they are for. A part that a run does not have is 0."""

    trained: int = 0  # weights of the model that train
    frozen: int = 0  # its other weights
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0  # what the backward pass of the largest micro-batch needs
    logits: int = 0  # of the tokens whose logits exist at one time, and the head's gradient while it is made
    reference: int = 0  # copies: what they hold beside the weights above
    value_network: int = 0
    reward_models: int = 0
    writing: int = 0  # the key-value cache of the largest batch that is written, and its logits
    saving: int = 0  # a merged copy where an adapter is saved merged, and the bytes on their way to the file
    program: int = 0  # Python, its libraries and the rows; on a GPU they lie elsewhere

    @property
    def total(self) -> int:
        """The peak: a run writes, trains and saves by turns."""
        step = self.gradients + self.activations + self.logits
        always = sum(getattr(self, field.name) for field in fields(self)) - step - self.writing - self.saving
        return always + max(step, self.writing, self.saving)


class SavedTensors:
    """Counts what autograd saves inside of `with counting:`: each storage once, and no weight.

    `wide` counts apart those whose rows are as wide as the vocabulary: logits.
    """

    def __init__(self, weights: Iterable[torch.Tensor], vocabulary: int = 0) -> None:
        self.weights = {p.untyped_storage().data_ptr() for p in weights}
        self.vocabulary = vocabulary
        self.others: dict[int, int] = {}
        self.logits: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        return sum(self.others.values())

    @property
    def wide(self) -> int:
        return sum(self.logits.values())

    def save(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            is_wide = tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary
            (self.logits if is_wide else self.others)[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself it would hold its own graph, and never be freed

    def __enter__(self) -> SavedTensors:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.save, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)


def held(trainer: Trainer) -> Memory:
    """The parts that are there all the time. What several models hold together counts once, for the first of them."""
    seen: set[int] = set()

    def of(tensors: Iterable[torch.Tensor]) -> int:
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        new = {key: size for key, size in storages.items() if key not in seen}
        seen.update(new)
        return sum(new.values())

    model, value_network = trainer.model, getattr(trainer, "value_network", None)
    reference = getattr(trainer, "reference", None)
    trained = list(trainer.trained_parameters().values())
    own = of(p for p in model.parameters() if p.requires_grad), of([*model.parameters(), *model.buffers()])
    return Memory(
        trained=own[0],
        frozen=own[1],
        saving=saving_bytes(trainer, *own),
        gradients=sum(p.numel() * p.element_size() for p in trained),
        optimizer=sum(ADAM_AVERAGES * p.numel() * p.element_size() + ADAM_CLOCK for p in trained),
        value_network=of(tensors_of(value_network)),
        reference=of(tensors_of(getattr(reference, "module", None))),
        reward_models=sum(of(tensors_of(scorer)) for scorer in scorers(trainer)),
    )


def saving_bytes(trainer: Trainer, trained: int, frozen: int) -> int:
    """What saving takes: safetensors lays the weights out once more, and a merged model is one more before that.

    Both are made beside a GPU's memory, not in it.
    """
    if trainer.accelerator.device.type == "cuda":
        return 0
    # A reward model is always merged: transformers could not open its adapter alone.
    model: Any = trainer.model
    if hasattr(model, "active_peft_config") and saving.base_is_on_hub(model):
        return trained
    return (trained + frozen) * (2 if trainer.is_adapted else 1)


def tensors_of(module: Any) -> list[torch.Tensor]:
    return [] if module is None else [*module.parameters(), *module.buffers()]


def scorers(trainer: Trainer) -> list[Any]:
    """The reward models that score a policy's responses."""
    parts = getattr(getattr(trainer, "reward", None), "parts", [])
    return [source.reward_model for _, source in parts if hasattr(source, "reward_model")]


def program(device: torch.device, memory: Memory) -> int:
    """What this process takes beside its tensors, where it shares a memory with them."""
    if device.type == "cuda":
        return 0
    here = sum(getattr(memory, name) for name in ("trained", "frozen", "reference", "value_network", "reward_models"))
    return max(0, resident() - here)


def resident() -> int:
    """Bytes of memory that this process takes now."""
    import psutil  # type: ignore[import-untyped]  # Accelerate brings it

    return int(psutil.Process().memory_info().rss)


def available(device: torch.device) -> int:
    """Bytes that this run could have on its device, with what it has already."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + int(torch.cuda.memory_reserved(device))
    free = machine.memory()[1] + resident()
    return min(free, int(torch.mps.recommended_max_memory())) if device.type == "mps" else free


@contextmanager
def cuda_peak(device: torch.device) -> Iterator[list[int]]:
    """Bytes beyond those at the beginning, in the list after the block: the true peak, where the device counts it."""
    found: list[int] = []
    if device.type != "cuda":
        yield found
        return
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield found
    found.append(torch.cuda.max_memory_allocated(device) - before)


def in_words(size: float) -> str:
    """
    >>> in_words(3 * 2**20), in_words(2.5 * 2**30)
    ('3.0 MiB', '2.50 GiB')
    """
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
