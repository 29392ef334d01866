"""Claims about KTO, and about what all members of DPO's family share: their log, their first loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal, getcontext
from typing import Any

import torch

import auto_bot_tuner.dpo.loss as dpo
from proof.cases import dice, normal, whole
from proof.claims import FLOAT32, Case, Claim, Paper
from proof.oracles import preferences as definition
from proof.oracles.arithmetic import mean
from proof.peers import preferences as trl
from proof.preferences import BY_TRL, TESTS, pairs


def answers(**settings: Any) -> Iterator[Case]:
    """Single answers, all good or all bad in some cases; the reference point on either side of zero."""
    for seed in range(36):
        generator = dice(500 + seed)
        count = whole(generator, 1, 8)
        good = torch.rand(count, generator=generator) < (0.0, 0.5, 1.0)[seed % 3]
        reference = -20 * normal(generator, count).abs() - 0.1
        moved = (30.0 if seed % 6 == 5 else 2.0) * normal(generator, count)
        yield {
            "policy": reference + moved,
            "reference": reference,
            "is_desirable": good,
            "reference_point": 2 * normal(generator, 1)[0],
            "beta": (0.05, 0.1, 0.5)[seed % 3],
            "desirable_weight": 1.3,
            "undesirable_weight": 0.6,
            **settings,
        }


def near_one() -> Iterable[Case]:
    """From log-probabilities of nearly nothing to nearly all of it."""
    return [{"x": -torch.logspace(-6, 1.5, 60, dtype=torch.float32)}]


def log1mexp_oracle(case: Case) -> list[float]:
    getcontext().prec = 60
    return [float((1 - Decimal(x).exp()).ln()) for x in case["x"]]


def metrics_oracle(case: Case) -> dict[str, float]:
    sides = definition.pairs(case)
    return {
        "accuracy": mean([1.0 if good > bad else 0.0 if good < bad else 0.5 for good, bad in sides]),
        "reward_margin": case["beta"] * mean([good - bad for good, bad in sides]),
        "chosen_rewards": case["beta"] * mean([good for good, _ in sides]),
        "rejected_rewards": case["beta"] * mean([bad for _, bad in sides]),
    }


def metrics_of(case: Case) -> dict[str, float]:
    sums = [case[f"{who}_{side}"] for who in ("policy", "reference") for side in ("chosen", "rejected")]
    metrics = dpo.dpo_loss(*sums, case["beta"])[1]
    return {name: metrics[name] for name in metrics if name != "loss"}


def metrics_of_trl(case: Case) -> dict[str, float]:
    metrics = trl.dpo(case)[1]
    names = {"accuracy": "accuracies", "reward_margin": "margins", "chosen_rewards": "chosen"}
    return {name: metrics[f"rewards/{peer}"] for name, peer in {**names, "rejected_rewards": "rejected"}.items()}


def agreeing() -> Iterator[Case]:
    """Policy and reference are one."""
    for case in pairs(label_smoothing=0.2):
        yield case | {f"reference_{side}": case[f"policy_{side}"] for side in ("chosen", "rejected")}


def first_losses(case: Case) -> list[float]:
    return [
        float(dpo.initial_loss(loss, case["beta"]) or 0.0)
        for loss in ("sigmoid", "conservative", "robust", "hinge", "ipo")
    ]


def first_losses_by_definition(case: Case) -> list[float]:
    members = (definition.dpo, definition.conservative, definition.robust, definition.hinge, definition.ipo)
    return [definition.mean_over(each)(case) for each in members]


def kto(case: Case) -> tuple[torch.Tensor, dict[str, float]]:
    weights = {name: case[name] for name in ("desirable_weight", "undesirable_weight")}
    tensors = (case[name] for name in ("policy", "reference", "is_desirable", "reference_point", "beta"))
    return dpo.kto_loss(*tensors, **weights)


def kto_metrics(case: Case) -> dict[str, float]:
    metrics = kto(case)[1]
    return {name: metrics[name] for name in metrics if name != "loss"}


CLAIMS = [
    Claim(
        "KTO",
        dpo.kto_loss,
        Paper("Ethayarajh et al. 2024, §4", "2402.01306"),
        TESTS + "test_kto_equals_trls_kto_trainer",
        answers,
        lambda case: kto(case)[0],
        definition.kto,
        "the formula, answer by answer; z clamped at 0 and without gradient",
        lambda case: trl.kto(case)[0],
        "`KTOTrainer`",
        ("policy",),
    ),
    Claim(
        "KTO as logged: rewards, accuracy",
        dpo.kto_loss,
        Paper("Ethayarajh et al. 2024, §4", "2402.01306"),
        TESTS + "test_kto_by_hand",
        answers,
        kto_metrics,
        definition.kto_metrics,
        "counted and summed answer by answer",
        peer_is="logs rewards: compared in tests/test_dpo_loss.py",
        formula="as above",
    ),
    Claim(
        "log(1 - e^x)",
        dpo.log1mexp,
        Paper("Mächler 2012, “Accurately computing log(1 − exp(−|a|))”"),
        TESTS + "test_orpo_bears_an_answer_of_probability_one",
        near_one,
        lambda case: dpo.log1mexp(case["x"]),
        log1mexp_oracle,
        "60 digits of Python's decimal",
        peer_is="inside its ORPO, above",
        formula=r"\log(1 - e^x)",
    ),
    Claim(
        "what is logged: accuracy, rewards, margin",
        dpo.preference_metrics,
        Paper("Rafailov et al. 2023, §5", "2305.18290"),
        BY_TRL,
        pairs,
        metrics_of,
        metrics_oracle,
        "counted and summed pair by pair",
        metrics_of_trl,
        "`DPOTrainer`'s log",
        formula=r"\beta \log \frac{\pi_\theta}{\pi_{ref}}",
        bound=FLOAT32,
    ),
    Claim(
        "the first loss that each member must have",
        dpo.initial_loss,
        Paper("limiting case: h = 0"),
        TESTS + "test_loss_where_policy_and_reference_agree",
        agreeing,
        first_losses,
        first_losses_by_definition,
        "the formulas at h = 0",
        peer_is="has no such check",
        formula=r"\ln 2, \; 1, \; 1/4\beta^2",
        bound=FLOAT32,
    ),
]
