"""KTO's side of a DPO run: the loss of single answers, good or bad, and means over each kind.

A micro-batch may hold answers of one kind alone, so means over the good and over the bad travel as shares of all
answers, which may be averaged; at the log they are divided by the share of their kind.
"""

from __future__ import annotations

import torch

from auto_bot_tuner.dpo.config import DPOConfig
from auto_bot_tuner.dpo.loss import kto_loss

Values = dict[str, float | torch.Tensor]


def loss_of_answers(
    policy: torch.Tensor,
    reference: torch.Tensor,
    is_good: torch.Tensor,
    reference_point: torch.Tensor,
    config: DPOConfig,
) -> tuple[torch.Tensor, Values]:
    """Sums of log-probabilities (S,), is_good (S,) bool -> `kto_loss`, and metrics whose means mean something."""
    loss, metrics = kto_loss(
        policy,
        reference,
        is_good,
        reference_point,
        config.beta,
        desirable_weight=config.desirable_weight,
        undesirable_weight=config.undesirable_weight,
    )
    shares: Values = {
        "chosen_rewards": metrics["chosen_rewards"] * metrics["desirable"],
        "rejected_rewards": metrics["rejected_rewards"] * (1 - metrics["desirable"]),
        "chosen_logprobs": (policy.detach() * is_good).mean(),
        "rejected_logprobs": (policy.detach() * ~is_good).mean(),
        "reference_point": reference_point.clamp(min=0),
    }
    return loss, {**metrics, **shares}


def means_of_kinds(means: dict[str, float]) -> dict[str, float]:
    """Shares of all answers as means over the good and the bad; a kind that is absent is left out."""
    good = means["desirable"]
    means = {name: value for name, value in means.items() if name != "desirable"}
    for side, share in (("chosen", good), ("rejected", 1 - good)):
        for name in (f"{side}_rewards", f"{side}_logprobs"):
            means[name] = means[name] / share if share else 0.0
    means["reward_margin"] = means["chosen_rewards"] - means["rejected_rewards"]
    absent = ("rejected" if good == 1 else "chosen", "reward_margin") if good in (0, 1) else ()
    return {name: value for name, value in means.items() if not name.startswith(absent)}
