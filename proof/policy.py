"""Claims about PPO: masked statistics, divergence, rewards, advantages, the three losses and the controller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch

import auto_bot_tuner.rlhf.ppo_loss as ppo
from auto_bot_tuner.rlhf import kl_controller, running_scale
from proof import exact
from proof.cases import dice, normal, responses, whole, written_responses
from proof.claims import FLOAT32, FLOAT64, Bound, Case, Claim, Paper
from proof.masked import N_PLUS, NOT_IN_TRL, TESTS
from proof.oracles import policy as definition
from proof.peers import groups as trl

PPO = Paper("Schulman et al. 2017, eq. 7", "1707.06347")


def gae_cases() -> Iterator[Case]:
    for gamma, lam in ((1.0, 0.95), (1.0, 1.0), (0.9, 0.0), (0.99, 0.7)):
        yield from responses("rewards", "values", seeds=12, gamma=gamma, lam=lam)


def gae(case: Case) -> list[torch.Tensor]:
    return list(ppo.compute_gae(case["rewards"], case["values"], case["gamma"], case["lam"], case["mask"]))


def kinds(kind: str) -> Iterator[Case]:
    """Random pairs of policies, and pairs that agree to six digits, where naive k3 has no digits left."""
    yield from responses("logprobs", "reference_logprobs", kind=kind)
    for case in responses("logprobs", "gap", seeds=6, kind=kind):
        yield case | {"reference_logprobs": case["logprobs"] + 1e-6 * case["gap"].clamp(-9, 9)}


def estimates(kind: str, what: str) -> Claim:
    in_trl = {
        "k1": "has it inside the reward of `RLOOTrainer`, not as a function",
        "k2": "has none",
        "k3": "`GRPOTrainer`'s `per_token_kl`: compared in GRPO's table, row “plain k3”",
    }
    return Claim(
        f"{kind}, of a token",
        ppo.kl_estimates,
        Paper("Schulman 2020, “Approximating KL divergence”"),
        TESTS + "test_k3_keeps_its_digits_where_the_models_nearly_agree",
        partial(kinds, kind),
        lambda case: ppo.kl_estimates(case["logprobs"], case["reference_logprobs"], case["mask"], case["kind"]),
        definition.kl_estimates,
        "the formula, token by token",
        peer_is=in_trl[kind],
        gradients=("logprobs",),
        formula=what,
        bound=FLOAT32,
    )


def updates(**settings: float) -> Iterator[Case]:
    high = settings.pop("clip_ratio_high", 0.2)
    yield from written_responses(clip_ratio=0.2, clip_ratio_high=high, **settings)


def policy_loss(case: Case) -> torch.Tensor:
    names = ("logprobs", "old_logprobs", "token_advantages", "mask", "clip_ratio", "clip_ratio_high")
    return ppo.policy_loss(*(case[name] for name in names))[0]


def policy_loss_of_trl(case: Case) -> torch.Tensor:
    clip = case["clip_ratio"], case["clip_ratio_high"]
    return trl.grpo(case, "bnpo", clip=clip, advantages="token_advantages")[0]


def metrics(case: Case) -> dict[str, float]:
    names = ("logprobs", "old_logprobs", "token_advantages", "mask", "clip_ratio", "clip_ratio_high")
    found = ppo.policy_loss(*(case[name] for name in names))[1]
    return {name: found[name] for name in found if name != "policy_loss"}


def values(clip: float) -> Iterable[Case]:
    return responses("values", "old_values", "returns", value_clip=clip)


def value_metrics(case: Case) -> dict[str, float]:
    names = ("values", "old_values", "returns", "mask", "value_clip")
    return ppo.value_loss(*(case[name] for name in names))[1]


def entropy_cases() -> Iterator[Case]:
    for case in written_responses(coefficient=0.01):
        yield case | {"entropies": case["old_logprobs"].abs(), "advantages": torch.zeros(len(case["mask"]))}


def rollouts() -> Iterator[Case]:
    """Twenty rollouts, whose divergence lies now below, now above what was asked for."""
    for seed in range(12):
        divergences = (6 * normal(dice(seed), 20).exp()).tolist()
        yield {"divergences": divergences, "coefficient": 0.05, "target": 6.0, "n": 64, "horizon": 1000}


def controller(case: Case) -> list[float]:
    held = kl_controller.AdaptiveKL(case["coefficient"], case["target"], case["horizon"])
    return [held.update(kl, case["n"]) for kl in case["divergences"]]


def batches() -> Iterator[Case]:
    """Values in pieces of different lengths, around means far from zero too."""
    for seed in range(12):
        generator = dice(seed)
        shift = (0.0, 100.0, -3.0)[seed % 3]
        yield {"batches": [normal(generator, whole(generator, 1, 9)).double() + shift for _ in range(5)]}


def running_deviation(case: Case) -> float:
    scale = running_scale.RunningDeviation()
    for values in case["batches"]:
        scale.update(values)
    return scale.value


def batches_by_definition(case: Case) -> float:
    return definition.running_deviation({"batches": [values.tolist() for values in case["batches"]]})


CLAIMS = [
    estimates("k1", "d"),
    estimates("k2", "d^2 / 2"),
    estimates("k3", "e^{-d} - 1 + d"),
    *exact.CLAIMS,
    Claim(
        "reward of a token",
        ppo.token_rewards,
        Paper("Ziegler et al. 2019, eq. 2", "1909.08593"),
        TESTS + "test_the_score_lands_on_the_last_real_token_and_the_divergence_on_every_one",
        lambda: (
            case | {"scores": normal(dice(7), len(case["mask"]))}
            for case in responses("logprobs", "reference_logprobs", kl_coefficient=0.1)
        ),
        lambda case: ppo.token_rewards(
            case["scores"], case["logprobs"], case["reference_logprobs"], case["mask"], case["kl_coefficient"]
        ),
        definition.token_rewards,
        "row by row, the score at the last of its tokens",
        peer_is=NOT_IN_TRL,
        formula=r"r_t = -\beta \log \frac{\pi_{old}}{\pi_{ref}} + [t = T]\, r",
    ),
    Claim(
        "GAE: advantages and returns",
        ppo.compute_gae,
        Paper("Schulman et al. 2016, eq. 16", "1506.02438"),
        TESTS + "test_gae_is_its_double_sum_whatever_stands_under_padding",
        gae_cases,
        gae,
        definition.gae,
        "the O(T²) double sum over each response alone; rubbish of 1e4 under our padding",
        peer_is=NOT_IN_TRL,
        bound=FLOAT32,
    ),
    Claim(
        "clipped policy loss",
        ppo.policy_loss,
        PPO,
        TESTS + "test_the_clip_ends_the_push_in_the_advantages_own_direction_only",
        updates,
        policy_loss,
        definition.policy_loss,
        "the formula, token by token",
        policy_loss_of_trl,
        "`GRPOTrainer`, loss `bnpo` with an advantage for each token",
        ("logprobs",),
        bound=FLOAT32,
    ),
    Claim(
        "policy loss, clipped higher",
        ppo.clipped_objective,
        Paper("DAPO, Yu et al. 2025, eq. 8", "2503.14476"),
        TESTS + "test_probabilities_may_rise_further_than_they_may_fall_where_so_asked",
        lambda: updates(clip_ratio_high=0.28),
        policy_loss,
        definition.policy_loss,
        "the formula, token by token",
        policy_loss_of_trl,
        "`GRPOTrainer`, `epsilon_high=0.28`",
        ("logprobs",),
        bound=FLOAT32,
    ),
    Claim(
        "clip fraction, approximate KL, ratio",
        ppo.ratio_metrics,
        N_PLUS,
        TESTS + "test_approx_kl_is_that_of_the_old_policy_to_the_new",
        updates,
        metrics,
        definition.ratio_metrics,
        "counted token by token",
        peer_is="logs the clip fraction, compared in tests/test_grpo_parity.py",
        bound=FLOAT32,
        formula=r"\rho - 1 - \log \rho",
    ),
    *(
        Claim(
            f"value loss, clip {clip:g}",
            ppo.value_loss,
            N_PLUS,
            TESTS + "test_values_get_no_credit_beyond_the_clip",
            partial(values, clip),
            lambda case: ppo.value_loss(
                case["values"], case["old_values"], case["returns"], case["mask"], case["value_clip"]
            )[0],
            definition.value_loss,
            "the formula, token by token",
            peer_is=NOT_IN_TRL,
            gradients=("values",),
            formula=r"\frac12 \max((V - R)^2, (V_{old} + \mathrm{clip}(V - V_{old}, \pm c) - R)^2)",
        )
        for clip in (0.2, 0.0)
    ),
    Claim(
        "value loss as logged: clip fraction, explained variance",
        ppo.value_loss,
        N_PLUS,
        TESTS + "test_values_get_no_credit_beyond_the_clip",
        lambda: values(0.2),
        value_metrics,
        definition.value_metrics,
        "counted token by token",
        peer_is=NOT_IN_TRL,
        formula=r"|V - V_{old}| > c",
    ),
    Claim(
        "entropy bonus",
        ppo.entropy_bonus,
        PPO,
        TESTS + "test_the_entropy_bonus_rewards_indecision",
        entropy_cases,
        lambda case: ppo.entropy_bonus(case["entropies"], case["mask"], case["coefficient"])[0],
        definition.entropy_bonus,
        "real tokens one by one",
        lambda case: trl.grpo(case, "bnpo", entropy_coefficient=case["coefficient"])[0],
        "`GRPOTrainer`'s entropy bonus, advantages 0",
        ("entropies",),
        formula=r"-c_H \, \bar H",
    ),
    Claim(
        "adaptive KL coefficient",
        kl_controller.AdaptiveKL,
        Paper("Ziegler et al. 2019, §2.2", "1909.08593"),
        TESTS + "test_the_coefficient_moves_as_ziegler_has_it",
        rollouts,
        controller,
        definition.controller,
        "the recursion over 20 rollouts",
        peer_is=NOT_IN_TRL,
        bound=FLOAT64,
    ),
    Claim(
        "running deviation of rewards",
        running_scale.RunningDeviation,
        Paper("Chan et al. 1979"),
        "tests/test_ppo_trainer.py::test_scaled_rewards_forget_the_scale_of_their_source",
        batches,
        running_deviation,
        batches_by_definition,
        "of all values together",
        peer_is="has none",
        bound=Bound(1e-9, "float64, joined in pieces"),
        formula=r"M_{AB} = M_A + M_B + \frac{n_A n_B}{n} (\bar x_B - \bar x_A)^2",
    ),
]
