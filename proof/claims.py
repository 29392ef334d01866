"""What a claim is, and how it is measured: a function of ours beside an oracle and a peer, over many random cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

Case = dict[str, Any]  # tensors and plain settings by name

# Of each tensor so many entries, spread evenly, have their slope measured by finite differences.
PROBED = 12
STEP = 1e-5


class Bound(NamedTuple):
    """How large a difference may be, and why it is not zero."""

    size: float
    why: str


EXACT = Bound(0.0, "the same bits")
FLOAT64 = Bound(1e-9, "float64 on both sides; what is left is the order of the sums")
FLOAT32 = Bound(2e-6, "float32 holds 7 digits (6e-8 relative), and a few dozen roundings add up")
SUMS = Bound(
    2e-5, "float32, hundreds of terms, logits or ratios far out: an exponential makes an absolute error relative"
)
MODEL = Bound(5e-5, "float32 through two transformer layers: the order of its sums differs between the two ways")
TRAINING = Bound(5e-4, "some steps at a learning rate of 0.01: Adam divides by small gradients, and rounding grows")


class Graded(NamedTuple):
    """A value and a gradient that a claim has computed itself; None: not compared."""

    value: Any
    gradient: Any = None


@dataclass(frozen=True)
class Paper:
    """Where a formula comes from."""

    where: str  # "Rafailov et al. 2023, eq. 7"
    arxiv: str = ""  # "2305.18290"


@dataclass(frozen=True)
class Claim:
    """This function computes this formula: so says the oracle, and so does the peer."""

    name: str
    of: Any  # the function or class; the page links to its line
    paper: Paper
    test: str  # the node id of a test that fails where the claim is false
    cases: Callable[[], Iterable[Case]]
    ours: Callable[[Case], Any]  # tensors, numbers or lists of them; or Graded
    oracle: Callable[[Case], Any] | None  # the same from plain numbers: tensors come as (nested) lists of floats
    oracle_is: str  # in words
    peer: Callable[[Case], Any] | None = None  # as `ours`
    peer_is: str = ""  # who, or why there is none
    gradients: tuple[str, ...] = ()  # tensors of the case by which the sum of what comes out is differentiated
    bound: Bound = FLOAT32
    formula: str = ""  # TeX, where the docstring of `of` has none


@dataclass(frozen=True)
class Measured:
    """The largest differences over all cases; None where nothing was compared."""

    claim: Claim
    cases: int
    oracle_value: float | None = None
    oracle_gradient: float | None = None
    peer_value: float | None = None
    peer_gradient: float | None = None

    @property
    def differences(self) -> dict[str, float]:
        named = {
            "value, oracle": self.oracle_value,
            "gradient, oracle": self.oracle_gradient,
            "value, peer": self.peer_value,
            "gradient, peer": self.peer_gradient,
        }
        return {name: size for name, size in named.items() if size is not None}

    @property
    def failures(self) -> list[str]:
        """What is larger than its bound, and a claim that compared nothing."""
        bound = self.claim.bound.size
        found = [f"{name}: {size:.3g} > {bound:g}" for name, size in self.differences.items() if not size <= bound]
        return found if self.differences else ["nothing was compared"]


def measure(claim: Claim) -> Measured:
    worst: dict[str, float] = {}
    count = 0
    for case in claim.cases():
        count += 1
        ours = graded(claim.ours, case, claim.gradients)
        others = {}
        if claim.oracle is not None:
            others["oracle"] = of_oracle(claim.oracle, case, claim.gradients)
        if claim.peer is not None:
            others["peer"] = graded(claim.peer, case, claim.gradients)
        for who, other in others.items():
            for what, mine, theirs in zip(Graded._fields, ours, other, strict=True):
                if mine is not None and theirs is not None:
                    name = f"{who}_{what}"
                    worst[name] = max(worst.get(name, 0.0), difference(mine, theirs))
    return Measured(claim, count, **worst)


def graded(function: Callable[[Case], Any], case: Case, names: Sequence[str]) -> Graded:
    """What comes out, and the slopes of its weighted sum at the probed places of the named tensors."""
    leaves = {name: case[name].clone().requires_grad_() for name in names}
    found = function({**case, **leaves})
    if isinstance(found, Graded):
        return found
    if not names:
        return Graded(found)
    slopes = torch.autograd.grad(weighted_sum(found), list(leaves.values()), allow_unused=True)
    probed = [
        0.0 if slope is None else float(slope.flatten()[place])
        for slope, name in zip(slopes, names, strict=True)
        for place in probed_places(case[name])
    ]
    return Graded(found, probed)


def of_oracle(oracle: Callable[[Case], Any], case: Case, names: Sequence[str]) -> Graded:
    """The oracle's numbers, and their slopes by finite differences, all in float64."""
    plain = {name: as_plain(value) for name, value in case.items()}
    found = oracle(plain)
    if isinstance(found, Graded):
        return found
    if not names:
        return Graded(found)
    slopes = [slope_at(oracle, plain, case[name], name, place) for name in names for place in probed_places(case[name])]
    return Graded(found, slopes)


def slope_at(oracle: Callable[[Case], Any], plain: Case, tensor: torch.Tensor, name: str, place: int) -> float:
    """Five points, so that the error is of the step's fourth power; entry by entry, so that those that stay cancel."""

    def moved(step: float) -> list[float]:
        there = tensor.detach().double().clone()
        there.view(-1)[place] += step
        return list(floats(oracle({**plain, name: there.tolist()})))

    step = STEP * max(1.0, abs(float(tensor.flatten()[place])))
    points = zip(moved(step), moved(-step), moved(2 * step), moved(-2 * step), strict=True)
    slopes = [(8 * (up - down) - (far_up - far_down)) / (12 * step) for up, down, far_up, far_down in points]
    return math.fsum(slope * (1 + i / len(slopes)) for i, slope in enumerate(slopes))


def probed_places(tensor: torch.Tensor) -> list[int]:
    stride = max(1, tensor.numel() // PROBED)
    return list(range(0, tensor.numel(), stride))[: PROBED + 1]


def weighted_sum(found: Any) -> torch.Tensor:
    """One number of what came out, in which each entry counts differently: swapped entries would be seen."""
    flat = found.flatten()
    return (flat * (1 + torch.arange(flat.numel(), dtype=flat.dtype) / flat.numel())).sum()


def difference(ours: Any, theirs: Any) -> float:
    """The largest |a - b| / max(1, |b|): absolute for small numbers, relative for large ones; inf for nan."""
    pairs = list(zip(floats(ours), floats(theirs), strict=True))
    return max((apart(a, b) for a, b in pairs), default=0.0)


def apart(a: float, b: float) -> float:
    if a == b:  # infinities too
        return 0.0
    gap = abs(a - b) / max(1.0, abs(b))
    return gap if math.isfinite(gap) else math.inf


def floats(found: Any) -> Iterator[float]:
    """All numbers of tensors, nested sequences, dictionaries or a single number, in order."""
    if isinstance(found, torch.Tensor):
        yield from found.detach().double().flatten().tolist()
    elif isinstance(found, dict):
        yield from (x for name in sorted(found) for x in floats(found[name]))
    elif isinstance(found, list | tuple):
        yield from (x for part in found for x in floats(part))
    else:
        yield float(found)


def as_plain(value: Any) -> Any:
    """Tensors as nested lists: floats of full float64, integers, truth values."""
    if not isinstance(value, torch.Tensor):
        return value
    return (value.detach().double() if value.is_floating_point() else value).tolist()
