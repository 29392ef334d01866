r"""Several reward models as one: where they disagree, none of them knows.

A policy finds the inputs that a reward model scores too high (Gao et al. 2022, 2210.10760). Models that differ in the
seed of their training err in different places, and a score that only *one* of them gives is suspect:

    mean             (1/n) Σ r_i              averages noise away
    min              min r_i                  the most sceptical one decides
    mean_minus_std   mean − std (n − 1)       the mean, less the doubt

(Coste et al. 2023, 2310.02743; Eisenstein et al. 2023, 2312.09244: it helps, and does not cure errors that all share.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from auto_bot_tuner.rlhf.reward_model import RewardModel
from auto_bot_tuner.utils.errors import UsageError

How = Literal["mean", "min", "mean_minus_std"]


class RewardEnsemble(nn.Module):
    """Scores like a `RewardModel`. Each member's scores are centred by its own offset, so that they can be compared."""

    def __init__(self, models: Sequence[RewardModel], how: How = "mean") -> None:
        """
        Raises:
            UsageError: no model, an unknown `how`, a deviation of one model, or models of different vocabularies.
        """
        super().__init__()
        if how not in get_args(How):
            raise UsageError(f"how {how!r}: an ensemble takes {', '.join(get_args(How))}")
        if len(models) < (2 if how == "mean_minus_std" else 1):
            raise UsageError(f"an ensemble by {how} needs more than {len(models)} reward models")
        vocabularies = {model.get_base_model().get_input_embeddings().weight.shape[0] for model in models}
        if len(vocabularies) > 1:
            raise UsageError(f"an ensemble reads one tokenizer's ids, and these have {sorted(vocabularies)} of them")
        self.models = nn.ModuleList(models)
        self.how = how

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Scores (B,) of rows (B, T), as `RewardModel.forward`."""
        scores = torch.stack([model(input_ids, attention_mask) for model in self.models])  # (n, B)
        if self.how == "min":
            return scores.amin(dim=0)
        mean = scores.mean(dim=0)
        return mean if self.how == "mean" else mean - scores.std(dim=0)  # n - 1, as n models are a sample

    @property
    def config(self) -> Any:
        return self.models[0].config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device
