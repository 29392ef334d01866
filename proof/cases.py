"""Random cases: many seeds, shapes, lengths (of one too), scales, and rubbish under padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from proof.claims import Case

SCALES = (0.1, 1.0, 4.0)
RUBBISH = 1e4  # what stands under padding: large enough to be seen in any sum


def dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(generator: torch.Generator, low: int, high: int) -> int:
    """low to high, both included."""
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=dtype)


def row_lengths(generator: torch.Generator, seed: int, longest: int = 12) -> list[int]:
    """One to six rows; every fourth case has rows of a single token only."""
    count = whole(generator, 1, 6)
    return [1 if seed % 4 == 3 else whole(generator, 1, longest) for _ in range(count)]


def responses(*names: str, seeds: int = 24, **settings: Any) -> Iterator[Case]:
    """Tensors (B, R) by these names with `mask` and `lengths`; right-padded, rubbish under the padding."""
    for seed in range(seeds):
        generator = dice(seed)
        lengths = row_lengths(generator, seed)
        width = max(lengths) + seed % 3  # a column that no row reaches, now and then
        mask = torch.arange(width) < torch.tensor(lengths)[:, None]
        scale = SCALES[seed % 3]
        tensors = {name: torch.where(mask, scale * normal(generator, *mask.shape), RUBBISH) for name in names}
        yield {**tensors, "mask": mask, "lengths": torch.tensor(lengths), "seed": seed, **settings}


def written_responses(*, seeds: int = 24, groups: bool = False, **settings: Any) -> Iterator[Case]:
    """Log-probabilities now, when written and of the reference, (N, R) each, with advantages and rewards (N,).

    Some ratios lie beyond the clip on either side. `groups`: N is a multiple of `group_size`.
    """
    for seed in range(seeds):
        generator = dice(1000 + seed)
        size = whole(generator, 2, 4)
        count = size * whole(generator, 1, 3) if groups else max(2, len(row_lengths(generator, seed)))
        lengths = [1 if seed % 4 == 3 else whole(generator, 1, 10) for _ in range(count)]
        mask = torch.arange(max(lengths) + seed % 3) < torch.tensor(lengths)[:, None]
        old = -2 + normal(generator, *mask.shape).abs().neg()
        moved, other = (0.05, 0.3, 1.0)[seed % 3] * normal(generator, 2, *mask.shape)
        case = {
            "logprobs": old + moved,
            "old_logprobs": old,
            "reference_logprobs": old + 2 * other,
        }
        tensors = {name: torch.where(mask, values, -RUBBISH) for name, values in case.items()}
        yield {
            **tensors,
            "advantages": normal(generator, count),
            "token_advantages": normal(generator, *mask.shape),
            "rewards": normal(generator, count),
            "group_size": size,
            "mask": mask,
            "lengths": torch.tensor(lengths),
            "longest": 12,
            "seed": seed,
            **settings,
        }


def lines(tensor: list[list[float]], lengths: list[int]) -> list[list[float]]:
    """The real entries of each row."""
    return [row[:length] for row, length in zip(tensor, lengths, strict=True)]
