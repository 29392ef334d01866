"""A key-value cache that grows in blocks, so that a new token is written in place.

transformers' `DynamicCache` concatenates: each new token copies the keys and values of all the tokens before it,
which for a small model costs as much as the forward pass. Here a buffer with spare columns is allocated; a token
lands in the next one.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

SPARE_COLUMNS = 128


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, `(B, heads, T, head_dim)`: views of the first T columns of larger buffers."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_buffer, self.value_buffer = key_states, value_states  # the prefill, without spare columns
        elif end > self.key_buffer.shape[-2]:
            self.key_buffer = _widened(self.keys, end + SPARE_COLUMNS)
            self.value_buffer = _widened(self.values, end + SPARE_COLUMNS)
        if start > 0:
            self.key_buffer[:, :, start:end] = key_states
            self.value_buffer[:, :, start:end] = value_states
        self._look_at(end)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.key_buffer = self.keys.repeat_interleave(repeats, dim=0)
        self.value_buffer = self.values.repeat_interleave(repeats, dim=0)
        self._look_at(self.key_buffer.shape[-2])

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Row i becomes what row `indices[i]` was. Only rows that change place are copied."""
        count = len(indices)
        moved = (indices != torch.arange(count, device=indices.device)).nonzero()[:, 0]
        for buffer in (self.key_buffer, self.value_buffer):
            buffer[moved] = buffer[indices[moved]]  # the right side is a copy: the order of rows does not matter
        self.key_buffer, self.value_buffer = self.key_buffer[:count], self.value_buffer[:count]
        self._look_at(self.get_seq_length())

    def _look_at(self, length: int) -> None:
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]


def _widened(states: torch.Tensor, columns: int) -> torch.Tensor:
    rows, heads, length, head_dim = states.shape
    buffer = states.new_empty(rows, heads, columns, head_dim)
    buffer[:, :, :length] = states
    return buffer


def new_cache(model: Any) -> Cache:
    """An empty cache for `model`; layers with a sliding window or a state stay what transformers makes them."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
