"""A world small enough to enumerate: seven responses, a policy that is a table, and its true gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch

from proof.oracles.arithmetic import log_softmax

# A response is token 0 alone, or token 1 or 2 and then any: the tree's states are the start, after 1, after 2.
RESPONSES = [(0,), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
IDS = torch.tensor([[*response, 0][:2] for response in RESPONSES])  # (7, 2)
MASK = torch.tensor([[True, len(response) == 2] for response in RESPONSES])
STATES = torch.tensor([[0, response[0]] for response in RESPONSES])


def table(seed: int) -> torch.Tensor:
    """Logits (3 states, 3 tokens)."""
    return torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def logprobs(logits: torch.Tensor) -> torch.Tensor:
    """(7, 2), of each response's tokens; 0 under padding."""
    return logits.log_softmax(dim=-1)[STATES, IDS] * MASK


def chances(logits: torch.Tensor) -> torch.Tensor:
    """(7,), of the responses; they sum to one."""
    return logprobs(logits).sum(dim=1).exp()


def expected_gradient(logits: torch.Tensor, size: int, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Of minus the loss of a group, over all groups of `size` independent responses, each as likely as it is."""
    groups = torch.tensor(list(itertools.product(range(len(RESPONSES)), repeat=size)))
    odds = chances(logits).detach()
    total = torch.stack([odds[group].prod() * loss(group) for group in groups]).sum()
    return -torch.autograd.grad(total, logits)[0]


def true_gradient(logits: list[list[float]], rewards: list[float]) -> list[float]:
    """Of the expected reward, by hand: each response's probability times its reward times (one-hot - softmax)."""
    rows = [log_softmax(row) for row in logits]
    slope = [[0.0] * 3 for _ in rows]
    for response, reward in zip(RESPONSES, rewards, strict=True):
        path = list(zip([0, *response[:1]], response, strict=False))
        chance = math.exp(math.fsum(rows[state][token] for state, token in path))
        for state, token in path:
            for other in range(3):
                slope[state][other] += chance * reward * ((other == token) - math.exp(rows[state][other]))
    return [x for row in slope for x in row]
