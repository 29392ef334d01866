"""No padding at all: the rows of a batch travel through the trunk as one flat row.

Everything in a transformer but attention treats each token by itself, so rows may lie end to end in one row of
(1, sum of lengths) as long as two things hold: positions restart with each sequence, and attention stays within its
sequence. The second is a small attention function that cuts queries, keys and values at the sequences' borders. Rows
of alpaca, eight at a time, are half padding otherwise, and padding costs as much as text.

On a GPU the many small attention calls cost more than padding does; there batches are padded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from auto_bot_tuner.utils.quiet import quiet_libraries

ATTENTION = "per_sequence"


def per_sequence_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    sequence_lengths: list[int] | None = None,
    sliding_window: int | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence of a flat row: query (1, heads, sum of lengths, d) -> (1, sum, heads, d).

    Without `sequence_lengths` (generation, a padded batch) it is PyTorch's attention as transformers calls it.
    """
    if sequence_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    outputs = []
    parts = (tensor.float().split(sequence_lengths, dim=2) for tensor in (query, key, value))
    # In float32 even under autocast: for rows this short PyTorch's backward pass of attention on a CPU is up to seven
    # times slower in bfloat16 (40 tokens: 1.25 ms, not 0.17; equal at 320).
    with torch.autocast(query.device.type, enabled=False):
        for length, q, k, v in zip(sequence_lengths, *parts, strict=True):
            mask = None  # no mask: causal, by the fastest kernel
            if sliding_window is not None and length > sliding_window:
                ones = torch.ones(length, length, dtype=torch.bool, device=q.device)
                # A token sees itself and the window - 1 before it.
                mask = ones.tril().triu(1 - sliding_window)[None, None]
            outputs.append(sdpa_attention_forward(module, q, k, v, mask, **settings)[0])
    return torch.cat(outputs, dim=1).to(query.dtype), None


AttentionInterface.register(ATTENTION, per_sequence_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # for calls that do need a mask: generation


def real_tokens(input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(B, T): which tokens of right-padded rows are no padding: by count, as padding may have a real token's id."""
    return torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]


def flat_hidden_states(trunk: Any, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Last hidden states of the real tokens, row after row: input_ids (B, T) right-padded -> (sum of lengths, H)."""
    positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)  # (B, T)
    real = real_tokens(input_ids, lengths)
    output = trunk(
        input_ids=input_ids[real][None],
        position_ids=positions[real][None],  # 0, 1, …, restarting with each sequence
        # A mask of four dimensions is passed on as it is. Without it transformers would build one of (sum, sum).
        attention_mask=torch.zeros(1, 1, 1, 1, device=input_ids.device),
        sequence_lengths=lengths.tolist(),
        use_cache=False,
    )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


def padded_hidden_states(trunk: Any, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The same by right padding: (B, T) -> (sum of lengths, H).

    No attention mask: in a causal model no token looks to its right, so padding there is never attended to, and without
    a mask PyTorch may use its fastest attention.
    """
    with quiet_libraries():  # transformers warns that padding without a mask could be attended to; here it cannot
        hidden: torch.Tensor = trunk(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, H)
    return hidden[real_tokens(input_ids, lengths)]


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
    expected = padded_hidden_states(model.base_model, *probe(vocabulary, 0))
    model.set_attn_implementation(ATTENTION)
    exact = is_exact(model.base_model, expected, vocabulary)
    model.train(was_training)
    if not exact:
        model.set_attn_implementation(before)
    return exact


def is_exact(trunk: Any, expected: torch.Tensor, vocabulary: int) -> bool:
    """Whether two made-up rows, flat, give the hidden states of the padded batch, and none of the other row's.

    The second is exact to the bit: whatever stands in the first row, the second must not change. A layer that carries
    something from token to token other than by attention (a convolution, a recurrence) fails here, even with weights
    so small that a comparison of values would pass.
    """
    try:
        found = flat_hidden_states(trunk, *probe(vocabulary, 0))
        other = flat_hidden_states(trunk, *probe(vocabulary, 1))
    except (TypeError, ValueError):  # a trunk that takes no position_ids, an attention that PyTorch's cannot do
        return False
    close = torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-3)
    return close and torch.equal(found[6:], other[6:])


def probe(vocabulary: int, first_row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of 6 and 4 tokens; `first_row` changes the first one's."""
    input_ids = torch.arange(12).reshape(2, 6)
    input_ids[0] += 5 * first_row
    return input_ids % vocabulary, torch.tensor([6, 4])
