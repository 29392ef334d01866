r"""What a run would take at any size: arithmetic on paper, for models and machines that are not at hand.

`--dry-run` measures a run that this machine can start. This page of formulas is for the question before that: which
machine, and which setting? `python -m auto_bot_tuner.estimation.at_scale` prints the tables of docs/scaling.md.

With P weights, L layers of width H, N processes; bytes of a GPU:

    trained weight     4 (itself) + 4 (gradient) + 8 (AdamW's two averages) = 16, over N where weights are sharded
    frozen weight      4, 2 or 0.52 (four bits, and a scale of eight for every 64: QLoRA, 2305.14314; the embedding
                       and the head stay in 16 bits)
    whole weights      where they are sharded, gathered: when the model is loaded, while it writes, while it is saved
    activations        34 H of each layer and token in 16 bits (Korthikanti et al. 2022, 2205.05198, without the
                       attention matrix, which nobody stores any more); recomputed: 2 H, and one layer's 34 H
    logits             a chunk of tokens x V x 4 bytes, three times, and a trained head's gradient twice
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

GIB = 2**30
ADAPTED = 16  # rank of the adapters, on all linear layers
CHUNK = 2048  # tokens whose logits exist at one time on a GPU
SHARE = 0.9  # of a GPU's memory: the backward pass makes tensors of its own, and the allocator rounds up
TOKENS = 4096  # of one forward pass: `micro_batch_tokens`
WRITTEN = 16384  # tokens of the responses that are written at one time: 16 of 1,024
BYTES_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)


class Size(NamedTuple):
    """A model of the Llama kind; `kv` is the width of keys, and of values."""

    name: str
    layers: int
    hidden: int
    inner: int
    kv: int
    vocabulary: int
    is_tied: bool = False

    @property
    def linear(self) -> int:
        """Weights of the layers' matrices: what adapters sit on, and what is rounded to four bits."""
        attention = 2 * self.hidden * (self.hidden + self.kv)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def weights(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        return self.linear + norms + (1 if self.is_tied else 2) * self.vocabulary * self.hidden

    @property
    def adapter(self) -> int:
        """Weights of adapters on all linear layers: r x (in + out) of each."""
        h, i, kv = self.hidden, self.inner, self.kv
        return self.layers * ADAPTED * (2 * (h + h) + 2 * (h + kv) + 3 * (h + i))


SIZES = (
    Size("1M", 4, 128, 512, 128, 4096, is_tied=True),
    Size("0.1B", 30, 576, 1536, 192, 49152, is_tied=True),  # SmolLM2 135M
    Size("1B", 22, 2048, 5632, 256, 32000),  # TinyLlama
    Size("7B", 32, 4096, 11008, 4096, 32000),  # Llama 2, these three
    Size("13B", 40, 5120, 13824, 5120, 32000),
    Size("70B", 80, 8192, 28672, 1024, 32000),
)


class Machine(NamedTuple):
    name: str
    processes: int
    gigabytes: float  # of memory for each process
    is_gpu: bool = True


MACHINES = (
    Machine("laptop, 16 GB", 1, 16, is_gpu=False),
    Machine("one GPU, 24 GB", 1, 24),
    Machine("8 GPUs, 80 GB", 8, 80),
    Machine("64 GPUs, 80 GB", 64, 80),
)


@dataclass(frozen=True)
class Way:
    """How weights are held: `words` are the settings that ask for it, from the cheapest way to the dearest."""

    words: str
    bytes_per_frozen: float = 4
    is_adapter: bool = False
    is_sharded: bool = False
    recomputes: bool = False


WAYS = (
    Way("full"),
    Way("full, recomputing", recomputes=True),
    Way("full, FSDP, recomputing", is_sharded=True, recomputes=True),
    Way("LoRA on bf16, recomputing", 2, is_adapter=True, recomputes=True),
    Way("LoRA on bf16, FSDP, recomputing", 2, is_adapter=True, is_sharded=True, recomputes=True),
    Way("LoRA on 4-bit, recomputing", BYTES_4BIT, is_adapter=True, recomputes=True),
)


class Needs(NamedTuple):
    """Models of a method: those that train (16 bytes a weight) and those that only read."""

    name: str
    trained: int = 1
    frozen: int = 0  # with LoRA they are the base itself, or an adapter on it
    writes: bool = False


METHODS = (
    Needs("SFT, reward model, DPO with precomputed reference"),
    Needs("DPO, KTO", frozen=1),  # the reference
    Needs("GRPO with KL", frozen=1, writes=True),
    Needs("PPO", trained=2, frozen=2, writes=True),  # policy and value network; reference and reward model
)


def base(size: Size, way: Way) -> float:
    """Bytes of a model that only reads."""
    if way.bytes_per_frozen < 1:
        return way.bytes_per_frozen * size.linear + 2 * (size.weights - size.linear)
    return way.bytes_per_frozen * size.weights


def held(size: Size, needs: Needs, way: Way, processes: int) -> float:
    """Bytes of weights, gradients and AdamW's averages that a process holds all the time."""
    if way.is_adapter:
        total = base(size, way) + 16 * size.adapter * (needs.trained + needs.frozen)
    else:
        total = 16 * size.weights * needs.trained + base(size, way) * needs.frozen
    return total / (processes if way.is_sharded else 1)


def activations(size: Size, way: Way, tokens: int = TOKENS) -> float:
    one_layer = 34 * size.hidden
    per_token = 2 * size.hidden * size.layers + one_layer if way.recomputes else one_layer * size.layers
    return float(per_token * tokens)


def logits(size: Size, way: Way) -> float:
    head = 0 if way.is_adapter else 2 * size.vocabulary * size.hidden * 4
    return float(3 * CHUNK * size.vocabulary * 4 + head)


def whole(size: Size, way: Way) -> float:
    """What sharded weights take when they are gathered."""
    return base(size, way) if way.is_sharded else 0.0


def peak(size: Size, needs: Needs, way: Way, processes: int) -> float:
    step = activations(size, way) + logits(size, way)
    writing = whole(size, way) + (cache_bytes(size, WRITTEN) if needs.writes else 0.0)
    return held(size, needs, way, processes) + max(step, writing)


def choose(size: Size, needs: Needs, machine: Machine) -> Way | None:
    """The first way, from the cheapest, that fits; None where none does."""
    for way in WAYS:
        if way.is_sharded and (machine.processes == 1 or needs.name == "PPO"):
            continue
        if way.bytes_per_frozen < 1 and not machine.is_gpu:  # bitsandbytes wants one
            continue
        if peak(size, needs, way, machine.processes) <= SHARE * machine.gigabytes * GIB:
            return way
    return None


def cache_bytes(size: Size, tokens: int) -> float:
    """The key-value cache of what is written at one time, in 16 bits."""
    return float(2 * 2 * size.layers * size.kv * tokens)


# ---- tables ----


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def gib(size: float) -> str:
    return f"{size / GIB:,.3g}" if size < 1000 * GIB else f"{size / GIB:,.0f}"


def sizes_table() -> str:
    head = ("model", "weights", "adapter", "weights, GiB", "full, GiB", "LoRA bf16, GiB", "LoRA 4-bit, GiB", "DPO, GiB")
    sft, dpo, _, ppo = METHODS
    return table(
        (*head, "PPO, GiB"),
        (
            (
                size.name,
                f"{size.weights:,}",
                f"{size.adapter:,}",
                gib(4 * size.weights),
                *(gib(held(size, sft, way, 1)) for way in (WAYS[0], WAYS[3], WAYS[5])),
                *(gib(held(size, needs, WAYS[0], 1)) for needs in (dpo, ppo)),
            )
            for size in SIZES
        ),
    )


def step_table() -> str:
    head = ("model", "activations, GiB", "recomputed, GiB", "logits, GiB", "all logits at once, GiB", "KV cache, GiB")
    return table(
        head,
        (
            (
                size.name,
                gib(activations(size, WAYS[0])),
                gib(activations(size, WAYS[1])),
                gib(logits(size, WAYS[3])),
                gib(3 * TOKENS * size.vocabulary * 4.0),
                gib(cache_bytes(size, WRITTEN)),
            )
            for size in SIZES
        ),
    )


def traffic_table(processes: int = 8) -> str:
    """Gigabytes that a GPU sends in one step, in rings: (N - 1) / N of a tensor for a gather or a reduce-scatter."""
    head = ("model", "DDP", "DDP, LoRA", "FSDP, one pass", "zero2, one pass", "checkpoint, full", "checkpoint, LoRA")
    ring = (processes - 1) / processes / 1e9
    return table(
        head,
        (
            (
                size.name,
                *(f"{4 * n * ring:,.3g}" for n in (2 * size.weights, 2 * size.adapter)),
                *(f"{4 * n * ring:,.3g}" for n in (3 * size.weights, 2 * size.weights)),
                *(f"{12 * n / 1e9:,.3g}" for n in (size.weights, size.adapter)),
            )
            for size in SIZES
        ),
    )


def settings_table(needs: Needs) -> str:
    chosen = ((choose(size, needs, machine) for machine in MACHINES) for size in SIZES)
    rows = zip(SIZES, chosen, strict=True)
    head = ("model", *(machine.name for machine in MACHINES))
    return table(head, ((size.name, *("no" if way is None else way.words for way in ways)) for size, ways in rows))


def main() -> None:
    print("$ python -m auto_bot_tuner.estimation.at_scale\n")
    print(f"held all the time, by one process alone\n\n{sizes_table()}\n")
    print(f"in a pass of {TOKENS:,} tokens; the cache of 16 responses of 1,024 tokens\n\n{step_table()}\n")
    print(f"gigabytes that each of 8 GPUs sends in a step, and of a checkpoint\n\n{traffic_table()}\n")
    for needs in METHODS:
        print(f"{needs.name}: the cheapest way that fits\n\n{settings_table(needs)}\n")


if __name__ == "__main__":
    main()
