"""The DPO family by its papers: one pair at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

from proof.claims import Case
from proof.oracles.arithmetic import log_sigmoid, mean, sigmoid


def pairs(case: Case, by_tokens: bool = False, with_reference: bool = True) -> list[tuple[float, float]]:
    """What the losses compare of each pair: log-ratios (or log-probabilities) of both sides, sums or token means."""
    compared = []
    for i in range(len(case["policy_chosen"])):
        sides = []
        for side in ("chosen", "rejected"):
            value = case[f"policy_{side}"][i]
            if with_reference:
                value -= case[f"reference_{side}"][i]
            sides.append(value / case[f"{side}_lengths"][i] if by_tokens else value)
        compared.append((sides[0], sides[1]))
    return compared


def mean_over(loss: Callable[[Case, float], float], by_tokens: bool = False) -> Callable[[Case], float]:
    """The mean over pairs of a loss of h."""
    return lambda case: mean([loss(case, good - bad) for good, bad in pairs(case, by_tokens)])


def dpo(case: Case, h: float) -> float:
    return -log_sigmoid(case["beta"] * h)


def conservative(case: Case, h: float) -> float:
    e = case["label_smoothing"]
    return (1 - e) * dpo(case, h) + e * dpo(case, -h)


def robust(case: Case, h: float) -> float:
    e = case["label_smoothing"]
    return ((1 - e) * dpo(case, h) - e * dpo(case, -h)) / (1 - 2 * e)


def ipo(case: Case, h: float) -> float:
    return (h - 1 / (2 * case["beta"])) ** 2


def hinge(case: Case, h: float) -> float:
    return max(0.0, 1 - case["beta"] * h)


def simpo(case: Case) -> float:
    beta, gamma = case["beta"], case["simpo_gamma"]
    return mean([-log_sigmoid(beta * (good - bad) - gamma) for good, bad in pairs(case, True, False)])


def orpo(case: Case) -> float:
    losses = []
    for good, bad in pairs(case, True, False):
        log_odds = [x - math.log(-math.expm1(x)) for x in (good, bad)]
        losses.append(-good - case["beta"] * log_sigmoid(log_odds[0] - log_odds[1]))
    return mean(losses)


def sft_term(case: Case) -> float:
    """DPO and the mean over answers of the chosen's NLL per token."""
    nll = [-x / n for x, n in zip(case["policy_chosen"], case["chosen_lengths"], strict=True)]
    return mean_over(dpo)(case) + case["sft_weight"] * mean(nll)


def kto(case: Case) -> float:
    z = case["beta"] * max(0.0, case["reference_point"])
    losses = []
    for policy, reference, good in zip(case["policy"], case["reference"], case["is_desirable"], strict=True):
        r = case["beta"] * (policy - reference)
        losses.append(
            case["desirable_weight"] * (1 - sigmoid(r - z))
            if good
            else case["undesirable_weight"] * (1 - sigmoid(z - r))
        )
    return mean(losses)


def kto_metrics(case: Case) -> dict[str, float]:
    """Means over the good and the bad, 0 where there are none; who is on the right side of z."""
    z = case["beta"] * max(0.0, case["reference_point"])
    sides: dict[bool, list[float]] = {True: [], False: []}
    right = []
    for policy, reference, good in zip(case["policy"], case["reference"], case["is_desirable"], strict=True):
        r = case["beta"] * (policy - reference)
        sides[good].append(r)
        right.append(float(r > z if good else r < z))
    chosen, rejected = (mean(sides[side]) if sides[side] else 0.0 for side in (True, False))
    return {
        "accuracy": mean(right),
        "chosen_rewards": chosen,
        "rejected_rewards": rejected,
        "reward_margin": chosen - rejected,
        "desirable": len(sides[True]) / len(right),
    }
