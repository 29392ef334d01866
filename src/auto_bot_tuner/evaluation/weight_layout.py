"""Weights laid out for writing, where every matrix product has few rows.

A linear layer keeps its weight as (out, in), one output's numbers side by side. For the thousands of rows of a training
step that is as good as any order. A step of writing has one row for each text, and with at most 16 of them a CPU's
matrix product is slow in that order: multiplied into a head of 16k words, 8 rows take 2.6 ms, and 1.1 ms where the same
weight lies as (in, out). So the layers get such copies while a model writes (GRPO's writing: two thirds of the time).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# Bytes of all the copies. Fewer: the weights stay in the processor's caches, and what a step costs is not products.
# More: the copies, which take no more room than a training step's gradients, would be missed where nothing is trained.
COPIED_BYTES = range(16 * 2**20, 2**30 + 1)


@contextmanager
def laid_out_for_few_rows(model: Any) -> Iterator[None]:
    """Inside, the linear layers of a float32 model on a CPU hold copies laid out by column; afterwards, their own.

    The values are the same; products add them up in another order, so that logits differ by rounding.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear and is_plain(module.weight)]
    own = {layer: layer.weight for layer in layers}
    if torch.is_autocast_enabled("cpu") or sum(weight.nbytes for weight in own.values()) not in COPIED_BYTES:
        yield
        return
    try:
        for layer, weight in own.items():
            layer.weight = nn.Parameter(weight.detach().t().contiguous().t(), requires_grad=False)
        yield
    finally:
        for layer, weight in own.items():
            layer.weight = weight


def is_plain(weight: torch.Tensor) -> bool:
    """Whether it is a matrix of numbers and nothing else: neither quantised, nor a shard of one, nor on a GPU.

    Nor such a copy: of two threads that write with one model, the second would give back the first one's copies.
    """
    is_numbers = type(weight) is nn.Parameter and weight.dtype == torch.float32 and weight.is_cpu
    return is_numbers and weight.ndim == 2 and weight.is_contiguous() and min(weight.shape) > 1
