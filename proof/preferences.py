"""Claims about the DPO family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

import auto_bot_tuner.dpo.loss as dpo
from proof.cases import dice, normal, whole
from proof.claims import FLOAT32, Case, Claim, Paper
from proof.oracles import preferences as definition
from proof.oracles.arithmetic import mean
from proof.peers import preferences as trl

TESTS = "tests/test_dpo_loss.py::"
BY_TRL = TESTS + "test_equals_trls_dpo_trainer"
POLICY = ("policy_chosen", "policy_rejected")


def pairs(**settings: Any) -> Iterator[Case]:
    """Sums of log-probabilities of 1 to 8 pairs whose answers have 1 to 40 tokens; every sixth case lies far out."""
    for seed in range(36):
        generator = dice(seed)
        count = whole(generator, 1, 8)
        lengths = torch.randint(1, 2 if seed % 5 == 4 else 41, (2, count), generator=generator)
        far = 30.0 if seed % 6 == 5 else 1.0
        case: Case = {"chosen_lengths": lengths[0], "rejected_lengths": lengths[1]}
        for place, side in enumerate(("chosen", "rejected")):
            per_token = -0.02 - normal(generator, count).abs()
            case[f"policy_{side}"] = lengths[place] * per_token
            case[f"reference_{side}"] = lengths[place] * per_token + far * normal(generator, count)
        yield {**case, "beta": (0.05, 0.1, 0.5, 1.0)[seed % 4], "seed": seed, **settings}


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


def member(loss_type: str) -> Callable[[Case], torch.Tensor]:
    """The family's front door, as the trainer calls it."""
    settings = ("label_smoothing", "simpo_gamma", "sft_weight", "chosen_lengths", "rejected_lengths")

    def ours(case: Case) -> torch.Tensor:
        given = {name: case[name] for name in settings if name in case}
        sums = (case["policy_chosen"], case["policy_rejected"], case["reference_chosen"], case["reference_rejected"])
        return dpo.dpo_loss(*sums, case["beta"], loss_type, **given)[0]

    return ours


def of_trl(*loss_types: str) -> Callable[[Case], torch.Tensor]:
    return lambda case: trl.dpo(case, loss_types)[0]


def family(name: str, of: Any, paper: Paper, loss_type: str, oracle: Callable[[Case], float], **rest: Any) -> Claim:
    settings = rest.pop("settings", {})
    return Claim(
        name,
        of,
        paper,
        rest.pop("test", BY_TRL),
        rest.pop("cases", lambda: pairs(**settings)),
        member(loss_type),
        oracle,
        rest.pop("oracle_is", "the formula, pair by pair"),
        gradients=POLICY,
        **rest,
    )


def equally_long() -> Iterator[Case]:
    for case in pairs(sft_weight=0.7):
        same = torch.full_like(case["chosen_lengths"], int(case["chosen_lengths"][0]))
        yield case | {"chosen_lengths": same, "rejected_lengths": same}


def near_one() -> Iterable[Case]:
    """From log-probabilities of nearly nothing to nearly all of it."""
    return [{"x": -torch.logspace(-6, 1.5, 60, dtype=torch.float32)}]


def log1mexp_oracle(case: Case) -> list[float]:
    from decimal import Decimal, getcontext

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


CLAIMS = [
    family(
        "DPO",
        dpo.sigmoid_loss,
        Paper("Rafailov et al. 2023, eq. 7", "2305.18290"),
        "sigmoid",
        definition.mean_over(definition.dpo),
        peer=of_trl("sigmoid"),
        peer_is="`DPOTrainer`",
    ),
    family(
        "conservative DPO",
        dpo.conservative_loss,
        Paper("Mitchell 2023, “DPO with noisy preferences”"),
        "conservative",
        definition.mean_over(definition.conservative),
        settings={"label_smoothing": 0.2},
        peer=trl.conservative,
        peer_is="`CPOTrainer.cpo_loss` of log-ratios",
        test=TESTS + "test_conservative_and_simpo_equal_trls_cpo_trainer",
    ),
    family(
        "robust DPO",
        dpo.robust_loss,
        Paper("Chowdhury et al. 2024", "2403.00409"),
        "robust",
        definition.mean_over(definition.robust),
        settings={"label_smoothing": 0.2},
        peer=of_trl("robust"),
        peer_is="`DPOTrainer`",
    ),
    family(
        "IPO, of token means",
        dpo.ipo_loss,
        Paper("Azar et al. 2023, eq. 17", "2310.12036"),
        "ipo",
        definition.mean_over(definition.ipo, by_tokens=True),
        peer=of_trl("ipo"),
        peer_is="`DPOTrainer`",
        bound=FLOAT32,
        oracle_is="the formula, pair by pair, h of token means as TRL and its authors have it",
    ),
    family(
        "IPO, of sums",
        dpo.ipo_loss,
        Paper("Azar et al. 2023, eq. 17", "2310.12036"),
        "ipo",
        definition.mean_over(definition.ipo),
        test=TESTS + "test_hand_worked_numbers",
        bound=FLOAT32,
        cases=lambda: (
            case | {f"{side}_lengths": torch.ones(len(case["policy_chosen"])) for side in ("chosen", "rejected")}
            for case in pairs()
        ),
        peer_is="differs: `DPOTrainer` takes token means only",
        oracle_is="the paper's: lengths of one make sums",
    ),
    family(
        "hinge (SLiC)",
        dpo.hinge_loss,
        Paper("Liu et al. 2023", "2309.06657"),
        "hinge",
        definition.mean_over(definition.hinge),
        peer=of_trl("hinge"),
        peer_is="`DPOTrainer`",
    ),
    family(
        "SimPO",
        dpo.simpo_loss,
        Paper("Meng et al. 2024, eq. 6", "2405.14734"),
        "simpo",
        definition.simpo,
        settings={"beta": 2.0, "simpo_gamma": 0.7},
        peer=lambda case: trl.simpo(case)[0],
        peer_is="`CPOTrainer.cpo_loss`",
        test=TESTS + "test_conservative_and_simpo_equal_trls_cpo_trainer",
    ),
    family(
        "ORPO",
        dpo.orpo_loss,
        Paper("Hong et al. 2024, eq. 6 and 7", "2403.07691"),
        "orpo",
        definition.orpo,
        peer=lambda case: trl.orpo(case)[0],
        test=TESTS + "test_orpo_equals_trls_odds_ratio_and_sft",
        peer_is="`ORPOTrainer.odds_ratio_loss` (its SFT part is of the prompt too: ours, as the paper, of the answer)",
    ),
    family(
        "SFT term beside DPO",
        dpo.dpo_loss,
        Paper("Pang et al. 2024", "2404.19733"),
        "sigmoid",
        definition.sft_term,
        settings={"sft_weight": 0.7},
        formula=r"L + w \cdot \frac1B \sum_i -\frac{1}{|y_w|} \log \pi_\theta(y_w \mid x)",
        test=TESTS + "test_sft_term_is_trls_where_answers_are_equally_long",
        peer_is="differs: TRL takes the mean over all tokens, we over answers; next row: answers of one length",
    ),
    family(
        "SFT term, answers equally long",
        dpo.dpo_loss,
        Paper("Pang et al. 2024", "2404.19733"),
        "sigmoid",
        definition.sft_term,
        cases=equally_long,
        peer=lambda case: trl.dpo(case, ("sigmoid", "sft"), (1.0, 0.7))[0],
        peer_is="`DPOTrainer`, losses `sigmoid` and `sft`",
        formula="as above",
        test=TESTS + "test_sft_term_is_trls_where_answers_are_equally_long",
    ),
    Claim(
        "KTO",
        dpo.kto_loss,
        Paper("Ethayarajh et al. 2024, §4", "2402.01306"),
        TESTS + "test_kto_equals_trls_kto_trainer",
        answers,
        lambda case: dpo.kto_loss(
            case["policy"],
            case["reference"],
            case["is_desirable"],
            case["reference_point"],
            case["beta"],
            desirable_weight=case["desirable_weight"],
            undesirable_weight=case["undesirable_weight"],
        )[0],
        definition.kto,
        "the formula, answer by answer; z clamped at 0 and without gradient",
        lambda case: trl.kto(case)[0],
        "`KTOTrainer`",
        ("policy",),
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
