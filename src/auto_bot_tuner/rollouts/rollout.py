"""What the six steps of a rollout fill in, field by field. Rows are responses; the prompt stands apart.

1 write      prompts → responses, mask, ended, logprobs            `writing.py`
2 score      responses → components, scores                        `rewards/`
3 compare    reference_logprobs, under the frozen reference         `trainer.py`
4 reward     scores and KL → rewards per token                      the method
5 value      values: what was to be expected before each token      the method (PPO alone)
6 advantage  how much better each token did than expected           the method
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from auto_bot_tuner.rewards.source import Attempt


@dataclass
class Rollout:
    """N responses, right-padded to the longest, R tokens. What stands under padding is 0 and never counted.

    The `samples` responses to one prompt are neighbours: rows i · samples … (i + 1) · samples − 1 of prompt i.
    """

    rows: list[int]  # N: the data set's row that each response answers
    samples: int  # responses to each prompt
    attempts: list[Attempt]  # N: prompt and response as text and as ids
    responses: torch.Tensor  # (N, R) long: token ids, the stop token included
    mask: torch.Tensor  # (N, R) bool: true at real tokens; a stop token is one
    ended: torch.Tensor  # (N,) bool: by a stop token, not cut off
    logprobs: torch.Tensor  # (N, R): log pi_old of each token, at the temperature that it was sampled with
    components: dict[str, torch.Tensor] = field(default_factory=dict)  # reward source → (N,)
    scores: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # (N,): the weighted sum, clipped, penalised
    raw_scores: torch.Tensor | None = None  # (N,): that sum before either. None: the same as scores
    reference_logprobs: torch.Tensor | None = None  # (N, R): None where the method needs no reference
    rewards: torch.Tensor | None = None  # (N, R): per token, KL included
    values: torch.Tensor | None = None  # (N, R): V before each token
    advantages: torch.Tensor | None = None  # (N, R)
    returns: torch.Tensor | None = None  # (N, R): what the value network learns

    @property
    def lengths(self) -> torch.Tensor:
        """(N,): tokens of each response."""
        return self.mask.sum(dim=1)
