"""No padding at all: the rows of a batch travel through the trunk as one flat row.

Everything in a transformer but attention treats each token by itself, so rows may lie end to end in one row of
(1, sum of lengths) as long as two things hold: positions restart with each sequence, and attention stays within its
sequence. The second is a small attention function that cuts queries, keys and values at the sequences' borders. Rows
of alpaca, eight at a time, are half padding otherwise, and padding costs as much as text.

The same function computes a shared prompt once. Two answers to one prompt lie in the flat row as [prompt, answer 1,
answer 2]: in a causal model the prompt's hidden states do not depend on what follows, so answer 2 sees the prompt's,
and does not see answer 1. Gradients add up where the two use the same state, as they should.

On a GPU the many small attention calls cost more than padding does; there batches are padded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from auto_bot_tuner.utils.quiet import quiet_libraries

ATTENTION = "per_sequence"
# What one more attention call costs, in pairs of tokens that the mask's way would look at in the same time. Measured
# on a CPU: one call for all wins with short responses (8 of 20 tokens: 0.8 of the time), a call for each with long ones
# (8 of 65: 1.5 times as fast; 8 of 200: 3 times).
PAIRS_OF_A_CALL = 7000


@dataclass
class Bundle:
    """Sequences that are read in one attention call: one alone, or several that share the first one's beginning."""

    own_lengths: list[int]  # tokens of each in the flat row, neighbours there
    shared_lengths: list[int]  # tokens of the first that each of them goes on from; 0 for the first itself
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)  # by window: the same in every layer

    def mask(self, window: int | None, device: torch.device) -> torch.Tensor | None:
        """(1, 1, n, n), added to the attention scores: 0 where token i (a row) sees token j, else minus infinity.

        None where PyTorch's own causal attention says the same, which is its fastest.
        """
        if window not in self.masks:
            is_plain = len(self.own_lengths) == 1 and (window is None or self.own_lengths[0] <= window)
            self.masks[window] = None if is_plain else self.build_mask(window).to(device)
        return self.masks[window]

    @property
    def is_wide(self) -> bool:
        """Whether most of a mask over all sequences would be minus infinity: then each attends in a call of its own."""
        n, sizes = sum(self.own_lengths), zip(self.own_lengths, self.shared_lengths, strict=True)
        pairs = sum(own * (shared + own) for own, shared in sizes)  # that are looked at then
        return n * n > 2 * pairs + PAIRS_OF_A_CALL * len(self.own_lengths)

    def build_mask(self, window: int | None) -> torch.Tensor:
        own, shared = torch.tensor(self.own_lengths), torch.tensor(self.shared_lengths)
        sequence = torch.arange(len(own)).repeat_interleave(own)  # (n,): whose token it is
        position = torch.cat([torch.arange(s, s + length) for s, length in zip(shared, own, strict=True)])  # (n,)
        is_own = sequence[:, None] == sequence  # (n, n)
        is_shared = (sequence == 0) & (position < shared[sequence][:, None])
        distance = position[:, None] - position
        # A token sees itself and what stands before it; with a window, itself and the window - 1 tokens before it.
        seen = (is_own | is_shared) & (distance >= 0) & (distance < (window or len(position) + 1))
        return torch.zeros(seen.shape).masked_fill_(~seen, -math.inf)[None, None]


def bundles_of(own_lengths: list[int], shared_lengths: list[int]) -> list[Bundle]:
    """The sequences of a flat row: each that shares nothing begins a bundle, those after it that share join it."""
    bundles: list[Bundle] = []
    for own, shared in zip(own_lengths, shared_lengths, strict=True):
        if shared == 0:
            bundles.append(Bundle([], []))
        bundles[-1].own_lengths.append(own)
        bundles[-1].shared_lengths.append(shared)
    return bundles


def per_sequence_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    bundles: list[Bundle] | None = None,
    sliding_window: int | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence of a flat row: query (1, heads, sum of lengths, d) -> (1, sum, heads, d).

    Without `bundles` (generation, a padded batch) it is PyTorch's attention as transformers calls it.
    """
    if bundles is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    outputs = []
    sizes = [sum(bundle.own_lengths) for bundle in bundles]
    parts = (tensor.float().split(sizes, dim=2) for tensor in (query, key, value))
    # In float32 even under autocast: for rows this short PyTorch's backward pass of attention on a CPU is up to seven
    # times slower in bfloat16 (40 tokens: 1.25 ms, not 0.17; equal at 320).
    with torch.autocast(query.device.type, enabled=False):
        for bundle, q, k, v in zip(bundles, *parts, strict=True):
            if sliding_window is None and bundle.is_wide:
                outputs += one_by_one(module, bundle, q, k, v, **settings)
                continue
            mask = bundle.mask(sliding_window, q.device)
            outputs.append(sdpa_attention_forward(module, q, k, v, mask, **settings)[0])
    return torch.cat(outputs, dim=1).to(query.dtype), None


def one_by_one(
    module: nn.Module, bundle: Bundle, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **settings: Any
) -> list[torch.Tensor]:
    """Each sequence of a bundle by itself, over the tokens that it shares and its own: (1, own, heads, d) each."""
    outputs, start = [], 0
    for own, shared in zip(bundle.own_lengths, bundle.shared_lengths, strict=True):
        end = start + own
        k, v = (torch.cat([x[:, :, :shared], x[:, :, start:end]], dim=2) for x in (key, value))
        mask = None
        if shared:  # PyTorch's causal attention would align the first query with the first key
            seen = torch.ones(own, shared + own, dtype=torch.bool, device=query.device).tril(shared)
            mask = torch.zeros(seen.shape, device=query.device).masked_fill_(~seen, -math.inf)[None, None]
        outputs.append(sdpa_attention_forward(module, query[:, :, start:end], k, v, mask, **settings)[0])
        start = end
    return outputs


AttentionInterface.register(ATTENTION, per_sequence_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # for calls that do need a mask: generation


def real_tokens(input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(B, T): which tokens of right-padded rows are no padding: by count, as padding may have a real token's id."""
    return torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]


def hidden_states_at(
    model: Any,
    is_flat: bool,
    input_ids: torch.Tensor,
    lengths: torch.Tensor,
    wanted: torch.Tensor,
    shared: torch.Tensor | None = None,
) -> torch.Tensor:
    """The last hidden states at the wanted positions of right-padded rows, row after row: (N, H).

    Args:
        model: a transformers model that `make_flat` has looked at; `is_flat` is what it said.
        input_ids: (B, T), padded on the right with anything.
        lengths: (B,), real tokens of each row.
        wanted: (B, T), true at N positions.
        shared: (B,), leading tokens that a row has in common with the last row before it that shares nothing. They
            are computed once where rows travel flat. None: no row shares any.
    """
    if not is_flat:
        return padded_hidden_states(model.base_model, input_ids)[wanted]
    shared = torch.zeros_like(lengths) if shared is None else shared
    positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)  # (B, T)
    own = real_tokens(input_ids, lengths) & (positions >= shared[:, None])  # (B, T): computed in this row
    output = model.base_model(
        input_ids=input_ids[own][None],
        position_ids=positions[own][None],  # 0, 1, …, restarting with each sequence
        # A mask of four dimensions is passed on as it is. Without it transformers would build one of (sum, sum).
        attention_mask=torch.zeros(1, 1, 1, 1, device=input_ids.device),
        bundles=bundles_of((lengths - shared).tolist(), shared.tolist()),
        use_cache=False,
    )
    hidden: torch.Tensor = output.last_hidden_state[0]  # (own tokens, H)
    return hidden[flat_places(lengths, shared, positions)[wanted]]


def flat_places(lengths: torch.Tensor, shared: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(B, T): where the flat row holds token t of row b. A shared token stands in the row that it is shared with."""
    own_lengths = lengths - shared  # (B,)
    starts = own_lengths.cumsum(0) - own_lengths  # (B,): place of each row's first own token
    rows = torch.arange(len(lengths), device=lengths.device)
    first = torch.where(shared == 0, rows, 0).cummax(0).values  # (B,): the row that is shared with, or the row itself
    own_places = (starts - shared)[:, None] + positions
    return torch.where(positions < shared[:, None], starts[first][:, None] + positions, own_places)


def padded_hidden_states(trunk: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Last hidden states of right-padded rows: (B, T) -> (B, T, H); those at padding mean nothing.

    No attention mask: in a causal model no token looks to its right, so padding there is never attended to, and without
    a mask PyTorch may use its fastest attention.
    """
    with quiet_libraries():  # transformers warns that padding without a mask could be attended to; here it cannot
        hidden: torch.Tensor = trunk(input_ids=input_ids, use_cache=False).last_hidden_state
    return hidden


@torch.no_grad()
def make_flat(model: Any, vocabulary: int) -> bool:
    """Give a transformers model the attention above, where that is exact; whether it was.

    Exact is asked of the model itself, see `is_exact`; a model that fails stays as it was.
    """
    before = model.config._attn_implementation
    device = next(model.parameters()).device
    if before == ATTENTION:
        return True
    if before != "sdpa" or device.type != "cpu":
        return False
    was_training = model.training
    model.eval()  # dropout would make two passes differ
    expected = probe_states(model, False, vocabulary, (0, 0))
    model.set_attn_implementation(ATTENTION)
    exact = is_exact(model, expected, vocabulary)
    model.train(was_training)
    if not exact:
        model.set_attn_implementation(before)
    return exact


def is_exact(model: Any, expected: torch.Tensor, vocabulary: int) -> bool:
    """Whether three made-up rows, flat, give the hidden states of the padded batch, and none of another row's.

    The second is exact to the bit: a row must not change whatever stands in another, but for the tokens that it shares.
    A layer that carries something from token to token other than by attention (a convolution, a recurrence) fails here,
    even with weights so small that a comparison of values would pass.
    """
    try:
        found, other_first, other_second = (
            probe_states(model, True, vocabulary, changes) for changes in ((0, 0), (5, 0), (0, 5))
        )
    except (TypeError, ValueError):  # a trunk that takes no position_ids, an attention that PyTorch's cannot do
        return False
    close = torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-3)
    return close and torch.equal(found[6:], other_first[6:]) and torch.equal(found[10:], other_second[10:])


def probe_states(model: Any, is_flat: bool, vocabulary: int, changes: tuple[int, int]) -> torch.Tensor:
    """Hidden states (15, H) of rows of 6, 4 and 5 tokens, the third sharing two tokens with the second.

    `changes` are added to the first row's tokens, and to those of the second that it does not share.
    """
    device = next(model.parameters()).device
    input_ids = torch.arange(18, device=device).reshape(3, 6)
    input_ids[2, :2] = input_ids[1, :2]
    input_ids[0] += changes[0]
    input_ids[1, 2:] += changes[1]
    lengths, shared = torch.tensor([6, 4, 5], device=device), torch.tensor([0, 0, 2], device=device)
    input_ids = input_ids % vocabulary
    return hidden_states_at(model, is_flat, input_ids, lengths, real_tokens(input_ids, lengths), shared)
