"""TRL's GRPO loss on given log-probabilities, its overlong penalty, and the advantages of its trainers."""

from __future__ import annotations

from typing import Any

import torch
import trl
from trl.rewards import get_soft_overlong_punishment

from proof.peers.stubs import stub


def cleaned(case: dict[str, Any], name: str) -> torch.Tensor:
    """0 under padding: TRL multiplies by the mask, and rubbish times 0 may be nan."""
    return case[name].masked_fill(~case["mask"], 0)


def grpo(
    case: dict[str, Any],
    loss_type: str,
    *,
    level: str = "token",
    beta: float = 0.0,
    bias_correction: bool = False,
    clip: tuple[float, float] = (0.2, 0.2),
    accumulation: int = 1,
    tokens_in_step: torch.Tensor | None = None,
    advantages: str = "advantages",
    entropy_coefficient: float = 0.0,
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """`GRPOTrainer._compute_loss` around a model that gives these log-probabilities: (loss, its metrics).

    The case: logprobs, old_logprobs, reference_logprobs (N, R), advantages (N,), mask (N, R), longest (an int);
    where there is an entropy bonus, entropies (N, R).
    """
    logprobs, mask = cleaned(case, "logprobs"), case["mask"]
    entropies = cleaned(case, "entropies") if "entropies" in case else torch.zeros_like(logprobs)
    trainer = stub(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, entropies, None),
        args=stub(use_bias_correction_kl=bias_correction, delta=None, steps_per_generation=accumulation),
        loss_type=loss_type,
        importance_sampling_level=level,
        beta=beta,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        max_completion_length=case["longest"],
        current_gradient_accumulation_steps=accumulation,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=bool(entropy_coefficient),
        use_adaptive_entropy=False,
        entropy_coef=entropy_coefficient,
    )
    inputs = {
        **written(logprobs, mask),
        "advantages": case[advantages],
        "old_per_token_logps": cleaned(case, "old_logprobs"),
        "ref_per_token_logps": cleaned(case, "reference_logprobs"),
        "num_items_in_batch": mask.sum() if tokens_in_step is None else tokens_in_step,
    }
    loss = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    return loss, trainer._metrics["train"]


def written(logprobs: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Ids of a batch as TRL passes them on; the stubs' log-probabilities (B, R) do not depend on them."""
    ids = torch.zeros(logprobs.shape, dtype=torch.long)
    return {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": mask.long(),
    }


def rloo(case: dict[str, Any]) -> torch.Tensor:
    """`RLOOTrainer._compute_loss` at the first step, where the ratio of a response is 1."""
    logprobs, mask = cleaned(case, "logprobs"), case["mask"]
    trainer = stub(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        epsilon_low=0.2,
        epsilon_high=0.2,
    )
    inputs = {
        **written(logprobs, mask),
        "advantages": case["advantages"],
        "old_logps": logprobs.detach().sum(dim=1),
    }
    return trl.RLOOTrainer._compute_loss(trainer, None, inputs)


def overlong(lengths: list[int], longest: int, buffer: int) -> list[float]:
    """TRL's is a (negative) reward, ours what is subtracted: the sign turned."""
    return [-x for x in get_soft_overlong_punishment(longest, buffer)([[0] * length for length in lengths])]
