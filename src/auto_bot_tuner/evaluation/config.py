"""Every setting of generation: how the next token is chosen, and when a text is over. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass


def _greedy_or_warm(temperature: float) -> float:
    # Logits divided by 1e-6 round to a distribution on one token, with rounding errors for its log-probs.
    if 0 < temperature < 0.01:
        raise ValueError("too close to zero to sample from: use 0 for greedy decoding, or at least 0.01")
    return temperature


Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_greedy_or_warm)]


@dataclass(config=ConfigDict(extra="forbid", validate_assignment=True), kw_only=True)
class GenerationConfig:
    """How a model writes. The defaults are greedy: the same answer at every call."""

    # Divides the logits before sampling (0.5 to 1.2): below 1 bolder, above 1 more varied. 0: greedy, the likeliest
    # token.
    temperature: Temperature = 0.0
    # Sample among the k likeliest tokens only (20 to 100). 0: all.
    top_k: NonNegativeInt = 0
    # Sample among the fewest tokens whose probabilities reach this sum (nucleus; 0.9 to 0.95). 1: all.
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    # Divides positive and multiplies negative logits of tokens already in the text (1.05 to 1.3). 1: off.
    repetition_penalty: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    # Longest answer in tokens, its stop token included.
    max_new_tokens: PositiveInt = 128
    # Seed of sampling; text number i of a call draws from its own stream (seed, i).
    seed: NonNegativeInt = 42
    # Rows x tokens (prompt and answer) that one batch may hold: bounds the memory of the key-value cache.
    batch_tokens: PositiveInt = 8192
