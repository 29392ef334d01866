"""Whether a run fits into the memory there is, and the cheapest change that makes it fit. Pure: no tensor, no torch.

Each change says what it costs, and gives the estimate that would hold after it. They stand in the order of their cost:
the first costs nothing but time, the last changes what is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from auto_bot_tuner.estimation.memory import Memory, in_words

# Of the memory there is: the backward pass makes tensors of its own, and the allocator rounds up.
SHARE = 0.9
FEWEST_TOKENS = 64  # no row is cut shorter than this
ADAM = 2  # averages of each trained weight, in float32
BITS_4 = 4.5 / 32  # of float32: four bits, and a scale for every 64 weights


@dataclass(frozen=True)
class Workload:
    """What the memory of a run depends on, as far as a setting can change it."""

    device: str = "cpu"  # its kind
    tokens: int = 1  # of the largest micro-batch
    least_tokens: int = 1  # of the smallest that its rows allow: the longest row's
    kept_per_token: int = 0  # bytes that gradient checkpointing keeps of a token: the input of each layer
    layers: int = 1
    is_checkpointed: bool = False
    is_adapted: bool = False  # LoRA, or a trained head alone: then the rest is frozen
    adapter_bytes: int = 0  # what LoRA at its default rank would train
    is_half: bool = False  # the frozen weights, in 16 bits or fewer
    is_quantized: bool = False
    longest: int = 1  # tokens of the longest row; where the policy writes them, of the longest response
    writing_tokens: int = 0  # rows x tokens of one batch of rollouts
    least_writing: int = 0  # of one prompt's responses: they stay together


@dataclass(frozen=True)
class Estimate:
    """What a run would take, and what that depends on."""

    memory: Memory
    work: Workload


@dataclass(frozen=True)
class Advice:
    """`fits`: as it is. Else `flags` make it fit, and `memory` is what it would take then; no flag: nothing does."""

    fits: bool
    flags: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    memory: Memory | None = None


Changed = tuple[str, str, Estimate]  # the flag, what it costs, and the estimate after it


def fits(estimate: Estimate, available: int) -> Advice:
    """Whether `estimate` fits into `available` bytes; else the cheapest change, or the cheapest that do it together."""
    limit = int(SHARE * available)
    if estimate.memory.total <= limit:
        return Advice(True)
    flags: list[str] = []
    costs: list[str] = []
    together = estimate
    for change in CHANGES:  # from the cheapest on: this one alone, at its mildest, else upon all cheaper ones
        for flag, cost, after in change(estimate):
            if after.memory.total <= limit:
                return Advice(False, (flag,), (cost,), after.memory)
        for flag, cost, after in list(change(together))[-1:]:
            if after.memory.total < together.memory.total:  # one that helps nothing is left out
                together, flags, costs = after, [*flags, flag], [*costs, cost]
        if together.memory.total <= limit:
            return Advice(False, tuple(flags), tuple(costs), together.memory)
    return Advice(False, (), (), together.memory)


# ---- the changes: each gives what it could be set to, the mildest first ----


def smaller_micro_batches(estimate: Estimate) -> Iterator[Changed]:
    work = estimate.work
    for tokens in halves(work.tokens, work.least_tokens):
        after = with_tokens(estimate, tokens)
        yield f"--micro-batch-tokens {tokens}", "the same gradient, in more and smaller passes", after


def smaller_writing(estimate: Estimate) -> Iterator[Changed]:
    work = estimate.work
    for tokens in halves(work.writing_tokens, work.least_writing):
        cache = int(estimate.memory.writing * tokens / work.writing_tokens)
        after = Estimate(replace(estimate.memory, writing=cache), replace(work, writing_tokens=tokens))
        yield f"--rollout-batch-tokens {tokens}", "the same responses, written fewer at a time", after


def checkpointing(estimate: Estimate) -> Iterator[Changed]:
    memory, work = estimate.memory, estimate.work
    if not work.is_checkpointed:
        activations = work.tokens * work.kept_per_token + memory.activations // work.layers
        after = Estimate(replace(memory, activations=activations), replace(work, is_checkpointed=True))
        if activations < memory.activations:
            yield "--gradient-checkpointing", "the same gradient, about a third more time", after


def adapters(estimate: Estimate) -> Iterator[Changed]:
    memory, work = estimate.memory, estimate.work
    if not work.is_adapted and work.adapter_bytes:
        after = replace(
            memory,
            trained=work.adapter_bytes,
            frozen=memory.frozen + memory.trained,
            gradients=work.adapter_bytes,
            saving=2 * memory.saving,  # merged first, unless the base is on the hub
            optimizer=ADAM * work.adapter_bytes,
            # The base under the adapter is the reference, and the value network's own frozen weights.
            reference=0,
            value_network=min(memory.value_network, work.adapter_bytes),
        )
        yield "--lora", "adapters train instead of every weight", Estimate(after, replace(work, is_adapted=True))


def half_the_base(estimate: Estimate) -> Iterator[Changed]:
    memory, work = estimate.memory, estimate.work
    if work.is_adapted and not work.is_half:
        after = replace(memory, frozen=memory.frozen // 2, reward_models=memory.reward_models // 2)
        yield "--dtype bfloat16", "frozen weights are rounded", Estimate(after, replace(work, is_half=True))


def four_bits(estimate: Estimate) -> Iterator[Changed]:
    memory, work = estimate.memory, estimate.work
    if work.is_adapted and not work.is_quantized and work.device == "cuda":
        frozen = int(memory.frozen * BITS_4 * (2 if work.is_half else 1))
        after = Estimate(replace(memory, frozen=frozen), replace(work, is_quantized=True, is_half=True))
        yield "--load-in-4bit", "frozen weights are rounded hard, and steps are slower", after


def shorter_rows(estimate: Estimate) -> Iterator[Changed]:
    """The smallest micro-batch is one row, so its length is the last thing to give up."""
    memory, work = estimate.memory, estimate.work
    for length in halves(work.longest, FEWEST_TOKENS):
        least = math.ceil(work.least_tokens - (work.longest - length))
        tokens = min(work.tokens, max(least, length))
        after = with_tokens(estimate, tokens)
        changed = replace(after.work, least_tokens=tokens, longest=length)
        if work.writing_tokens:
            writing = int(memory.writing * tokens / work.least_tokens)
            after = Estimate(replace(after.memory, writing=min(writing, memory.writing)), changed)
            yield f"--max-new-tokens {length} --micro-batch-tokens {tokens}", "shorter responses", after
        else:
            yield (
                f"--max-length {length} --micro-batch-tokens {tokens}",
                "longer rows are cut",
                replace(after, work=changed),
            )


CHANGES: tuple[Callable[[Estimate], Iterator[Changed]], ...] = (
    smaller_micro_batches,
    smaller_writing,
    checkpointing,
    adapters,
    half_the_base,
    four_bits,
    shorter_rows,
)


def halves(start: int, least: int) -> Iterator[int]:
    """Half of `start`, a quarter … and at last `least`.

    >>> list(halves(2048, 300))
    [1024, 512, 300]
    """
    now = start // 2
    while now > least:
        yield now
        now //= 2
    if 0 < least < start:
        yield least


def with_tokens(estimate: Estimate, tokens: int) -> Estimate:
    """As if the largest micro-batch had so many tokens: activations grow with them."""
    activations = math.ceil(estimate.memory.activations * tokens / estimate.work.tokens)
    return Estimate(replace(estimate.memory, activations=activations), replace(estimate.work, tokens=tokens))


def advice_in_words(advice: Advice, estimate: Estimate, available: int, device: str) -> list[str]:
    """Lines for a person."""
    if advice.fits:
        return [
            f"fits             yes: {in_words(estimate.memory.total)} of the {in_words(available)} that {device} has"
        ]
    lines = [f"fits             no: {in_words(estimate.memory.total)}, and {device} has {in_words(available)}"]
    if not advice.flags or advice.memory is None:
        least = f", {in_words(advice.memory.total)} at the least" if advice.memory else ""
        return [*lines, f"  no setting makes it fit{least}: take a smaller model, or a machine with more memory"]
    lines.append(f"  try {' '.join(advice.flags)}: about {in_words(advice.memory.total)}")
    return [*lines, *(f"    {flag}: {cost}" for flag, cost in zip(advice.flags, advice.costs, strict=True))]
