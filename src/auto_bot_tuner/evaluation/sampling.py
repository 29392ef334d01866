r"""From logits to the next token: pure functions on `(B, V)` tensors, no model.

    p(v) = softmax(z / temperature)_v, restricted to the top-k / top-p tokens and renormalised

A token is drawn by *inverse CDF*: with u ~ U[0, 1), take the first v with p(0) + … + p(v) > u. It is what
`torch.multinomial` promises at a tenth of its price on a CPU, and since u comes from a stream that belongs
to one text alone, a text does not depend on which texts share its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from auto_bot_tuner.evaluation.config import GenerationConfig


def uniform_stream(key: Sequence[int], length: int) -> torch.Tensor:
    """`(length,)` uniforms in [0, 1) of one text, a function of its key only: (seed, row, sample), say.

    torch's CPU generator keeps 32 bits of its seed, so streams of many rows would collide; numpy mixes them all.
    """
    draws = np.random.default_rng(tuple(key)).random(length, dtype=np.float32)
    # u * total must stay below total after rounding, or the search would run past the last possible token.
    return torch.from_numpy(draws).clamp_(max=1 - 2**-23)


def penalise_repetition(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """CTRL's penalty (1909.05858), sign-aware as in transformers. `seen` (B, V): true for tokens of the text."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Logits below the k-th largest become -inf; ties with it stay."""
    threshold = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < threshold, float("-inf"))


def keep_top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """The nucleus (Holtzman et al. 1904.09751): a token stays if the likelier ones before it sum to less than p."""
    ranked, order = logits.sort(dim=-1, descending=True)
    probabilities = ranked.softmax(dim=-1)
    mass_before = probabilities.cumsum(dim=-1) - probabilities  # (B, V), 0 for the likeliest: one token always stays
    outside = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, order, mass_before >= p)
    return logits.masked_fill(outside, float("-inf"))


def next_token_logprobs(logits: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """`(B, V)` log-probabilities of the distribution that is sampled: after temperature, top-k and top-p, in float32.

    Greedy decoding has no distribution to speak of (one token has probability 1): it gets the model's own, at
    temperature 1.
    """
    if config.temperature > 0:
        logits = logits / config.temperature
        if config.top_k > 0:
            logits = keep_top_k(logits, config.top_k)
        if config.top_p < 1:
            logits = keep_top_p(logits, config.top_p)
    return logits.log_softmax(dim=-1)


def draw(logprobs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Inverse CDF: `(B, V)` log-probabilities and `(B,)` uniforms give `(B,)` token ids.

    The sum is scaled by its own last entry, which rounding leaves a little off 1.
    """
    cdf = logprobs.exp().cumsum(dim=-1)
    return torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)[:, 0]
