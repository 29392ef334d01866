"""TRL's DPO, CPO (SimPO), ORPO and KTO losses on given log-probabilities of answers.

A case holds sums (B,): policy_chosen, policy_rejected, reference_chosen, reference_rejected, and the tokens summed,
chosen_lengths and rejected_lengths.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import trl
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from proof.peers.stubs import stub


def dpo(
    case: dict[str, Any], loss_types: tuple[str, ...] = ("sigmoid",), weights: tuple[float, ...] = (1.0,)
) -> tuple[torch.Tensor, dict[str, Any]]:
    """`DPOTrainer._compute_loss`: (loss, its metrics). All of an answer's log-probability stands at its first token."""
    lengths = torch.cat([case["chosen_lengths"], case["rejected_lengths"]])  # (2B,): chosen, then rejected
    sums = torch.cat([case["policy_chosen"], case["policy_rejected"]])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (2B, T)
    logprobs = torch.cat([sums[:, None], torch.zeros(mask.shape)[:, 1:]], dim=1)
    prompt = torch.zeros(len(mask), 1, dtype=torch.long)  # one token
    completion_mask = torch.cat([prompt, mask.long()], dim=1)
    outputs = SimpleNamespace(
        log_probs=logprobs,
        entropy=torch.zeros(mask.shape),
        mean_logits=torch.zeros(mask.shape),
        is_top1=torch.zeros(mask.shape, dtype=torch.bool),
    )
    inputs = {
        "input_ids": torch.ones_like(completion_mask),
        "attention_mask": torch.ones_like(completion_mask),
        "completion_mask": completion_mask,
        "ref_chosen_logps": case["reference_chosen"],
        "ref_rejected_logps": case["reference_rejected"],
    }
    trainer = stub(
        precompute_ref_logps=True,
        beta=case["beta"],
        label_smoothing=case.get("label_smoothing", 0.0),
        loss_types=list(loss_types),
        loss_weights=list(weights),
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
    )
    loss = trl.DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


def conservative(case: dict[str, Any]) -> torch.Tensor:
    """`CPOTrainer.cpo_loss` with smoothed labels, of log-ratios: conservative DPO, which `DPOTrainer` has no more."""
    trainer = stub(beta=case["beta"], alpha=0.0, loss_type="sigmoid", label_smoothing=case["label_smoothing"])
    ratios = [case[f"policy_{side}"] - case[f"reference_{side}"] for side in ("chosen", "rejected")]
    return CPOTrainer.cpo_loss(trainer, *ratios)[0].mean()


def token_means(case: dict[str, Any]) -> list[torch.Tensor]:
    return [case[f"policy_{side}"] / case[f"{side}_lengths"] for side in ("chosen", "rejected")]


def simpo(case: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """`CPOTrainer.cpo_loss` of token means: (loss, rewards of the chosen)."""
    settings = {"beta": case["beta"], "alpha": 0.0, "simpo_gamma": case["simpo_gamma"]}
    trainer = stub(loss_type="simpo", label_smoothing=0.0, **settings)
    losses, chosen_rewards, _ = CPOTrainer.cpo_loss(trainer, *token_means(case))
    return losses.mean(), chosen_rewards


def orpo(case: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """`ORPOTrainer.odds_ratio_loss` and SFT, as its `get_batch_loss_metrics` joins them: (loss, rewards of the chosen).

    TRL's own SFT part is of the prompt too; here, as ours, of the answer alone.
    """
    means = token_means(case)
    log_ratio, chosen_rewards, *_ = ORPOTrainer.odds_ratio_loss(stub(beta=case["beta"]), *means)
    return -means[0].mean() - log_ratio.mean(), chosen_rewards


def kto(case: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """`KTOTrainer._compute_loss` with this reference point: (loss, its metrics)."""
    policy, count = case["policy"], len(case["policy"])
    outputs = SimpleNamespace(
        log_probs=policy[:, None], entropy=torch.zeros(count, 1), mean_logits=torch.zeros(count, 1)
    )
    trainer = stub(
        precompute_ref_logps=True,
        beta=case["beta"],
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=case["desirable_weight"],
        undesirable_weight=case["undesirable_weight"],
        _compute_kl_logps=lambda *_: case["reference_point"].expand(count),
    )
    inputs = {
        "input_ids": torch.ones(count, 2, dtype=torch.long),
        "attention_mask": torch.ones(count, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]] * count),
        "label": case["is_desirable"],
        "ref_logps": case["reference"],
        "ref_KL_logps": torch.zeros(count),
    }
    loss = trl.KTOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}
