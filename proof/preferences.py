"""Claims about the DPO family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

import auto_bot_tuner.dpo.loss as dpo
from proof.cases import dice, normal, whole
from proof.claims import FLOAT32, Case, Claim, Paper
from proof.oracles import preferences as definition
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
]
