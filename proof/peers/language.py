"""TRL's cross-entropy: its log-softmax of chosen tokens, and its head that never builds the logits."""

from __future__ import annotations

from typing import Any

import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer.utils import selective_log_softmax


def sft(case: dict[str, Any]) -> torch.Tensor:
    """Minus the mean of `selective_log_softmax` over the trained tokens."""
    labels = case["labels"][:, 1:]
    logprobs = selective_log_softmax(case["logits"][:, :-1], labels.clamp(min=0))
    return -logprobs[labels != -100].mean()


def fused_head(case: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`ChunkedLogProbFunction`: log-probabilities, entropies (N,), and which targets ranked first."""
    temperature = case.get("temperature", 1.0)
    tensors = case["hidden"], case["weight"], None, case["targets"]
    wanted = ("entropy", "is_top1")
    # After the weight's bias: temperature, tokens per chunk, a cap of the logits, their scale.
    found = ChunkedLogProbFunction.apply(*tensors, temperature, 32, None, 1.0, wanted)
    return found[0], found[1], found[4]
