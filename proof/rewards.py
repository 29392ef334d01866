"""Claims about reward models: the losses, and where the score is read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

import auto_bot_tuner.rlhf.loss as reward
from auto_bot_tuner.rlhf.reward_model import RewardModel
from proof.cases import dice, normal, whole
from proof.claims import FLOAT32, MODEL, Case, Claim, Paper
from proof.oracles import rewards as definition
from proof.oracles.arithmetic import mean
from proof.peers import rewards as trl
from tests.reward_runs import small_reward_model
from tests.training_runs import VOCABULARY

TESTS = "tests/test_reward_loss.py::"
PARITY = "tests/test_reward_parity.py::test_ranking_loss_is_trls"
SCORES = ("chosen", "rejected")


def judgements(with_margin: bool = False, **settings: float) -> Iterator[Case]:
    """1 to 12 pairs of scores, hundreds apart in every sixth case."""
    for seed in range(30):
        generator = dice(seed)
        count = whole(generator, 1, 12)
        chosen, rejected, margin = (200.0 if seed % 6 == 5 else 2.0) * normal(generator, 3, count)
        yield {"chosen": chosen, "rejected": rejected, **({"margin": margin.abs()} if with_margin else {}), **settings}


def ranking(case: Case) -> torch.Tensor:
    settings = {name: case[name] for name in ("centering", "label_smoothing") if name in case}
    return reward.ranking_loss(case["chosen"], case["rejected"], case.get("margin", 0.0), **settings)[0]


def of_trl(case: Case) -> torch.Tensor:
    return trl.ranking(case["chosen"], case["rejected"], case.get("margin"), case.get("centering"))[0]


def metrics(case: Case) -> list[float]:
    found = reward.ranking_loss(case["chosen"], case["rejected"])[1]
    return [found[name] for name in ("accuracy", "reward_margin")]


def metrics_by_definition(case: Case) -> list[float]:
    gaps = [a - b for a, b in zip(case["chosen"], case["rejected"], strict=True)]
    return [mean([1.0 if gap > 0 else 0.0 if gap < 0 else 0.5 for gap in gaps]), mean(gaps)]


def metrics_of_trl(case: Case) -> list[float]:
    found = trl.ranking(case["chosen"], case["rejected"], None, None)[1]
    return [found[name][0] for name in ("accuracy", "margin")]


def rankings() -> Iterator[Case]:
    """Prompts with 2 to 5 responses, best first; some share a score."""
    for seed in range(24):
        generator = dice(seed)
        sizes = [whole(generator, 2, 5) for _ in range(whole(generator, 1, 4))]
        scores = [float(size - rank - (rank == 2)) for size in sizes for rank in range(size)]
        yield {
            "rewards": 2 * normal(generator, sum(sizes)),
            "group": torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
            "scores": torch.tensor(scores),
            "centering": (0.0, 0.01)[seed % 2],
        }


def regression_metrics(case: Case) -> dict[str, float]:
    metrics = reward.regression_loss(case["rewards"], case["scores"], case["group"])[1]
    return {name: metrics[name] for name in metrics if name != "loss"}


def padded_rows() -> Iterator[Case]:
    """Rows of 1 to 12 tokens in one batch, padded with the end token on either side; some end with it, some do not."""
    for seed in range(12):
        generator = dice(seed)
        rows = [torch.randint(1, VOCABULARY, (whole(generator, 1, 12),), generator=generator) for _ in range(5)]
        rows = [torch.cat([row, torch.zeros(i % 2, dtype=torch.long)]) for i, row in enumerate(rows)]
        yield {"rows": rows, "side": ("right", "left")[seed % 2]}


def together(case: Case) -> torch.Tensor:
    longest = max(map(len, case["rows"]))
    batch = torch.zeros(
        2, len(case["rows"]), longest, dtype=torch.long
    )  # ids, mask; 0 is the end token and the padding
    for i, row in enumerate(case["rows"]):
        place = slice(0, len(row)) if case["side"] == "right" else slice(longest - len(row), None)
        batch[0, i, place], batch[1, i, place] = row, 1
    with torch.no_grad():
        scores: torch.Tensor = small_reward_model()(*batch)
    return scores


def each_alone(case: Case) -> list[float]:
    """The head times the last hidden state of the row by itself, multiplied out."""
    model: Any = small_reward_model().model
    with torch.no_grad():
        states = [model.model(input_ids=torch.as_tensor(row)[None]).last_hidden_state[0, -1] for row in case["rows"]]
    head = model.score.weight[0].tolist()
    return [sum(h * w for h, w in zip(state.tolist(), head, strict=True)) for state in states]


BRADLEY_TERRY = Paper("Ouyang et al. 2022, eq. 1", "2203.02155")
CLAIMS = [
    *(
        Claim(
            name,
            reward.ranking_loss,
            paper,
            test,
            partial(judgements, **settings),
            ranking,
            definition.ranking,
            "the formula, pair by pair",
            of_trl if peer else None,
            "`RewardTrainer.compute_loss`" if peer else "has none",
            SCORES,
            formula=formula,
            bound=FLOAT32,
        )
        for name, paper, test, settings, peer, formula in (
            ("ranking loss", BRADLEY_TERRY, PARITY, {}, True, ""),
            (
                "with margin",
                Paper("Touvron et al. 2023 (Llama 2), eq. 2", "2307.09288"),
                PARITY,
                {"with_margin": True},
                True,
                r"-\log \sigma(r^+ - r^- - m)",
            ),
            (
                "centred",
                Paper("Eisenstein et al. 2023, eq. 2", "2312.09244"),
                PARITY,
                {"centering": 0.05},
                True,
                r"\dots + \lambda (r^+ + r^-)^2",
            ),
            (
                "with wrong labels",
                Paper("as conservative DPO"),
                TESTS + "test_margin_centering_and_smoothing_by_hand",
                {"label_smoothing": 0.1},
                False,
                r"-(1 - \varepsilon) \log \sigma(h) - \varepsilon \log \sigma(-h)",
            ),
        )
    ),
    Claim(
        "accuracy and margin, as logged",
        reward.is_right,
        BRADLEY_TERRY,
        PARITY,
        judgements,
        metrics,
        metrics_by_definition,
        "counted pair by pair",
        metrics_of_trl,
        "`RewardTrainer`'s log",
        formula=r"[r^+ > r^-] + \frac12 [r^+ = r^-]",
    ),
    Claim(
        "rankings of K",
        reward.kwise_loss,
        BRADLEY_TERRY,
        TESTS + "test_rankings_are_all_their_pairs_and_each_prompt_weighs_once",
        rankings,
        lambda case: reward.kwise_loss(case["rewards"], case["group"], case["scores"], centering=case["centering"])[0],
        definition.kwise,
        "all pairs of each prompt, one by one",
        peer_is="has none: pairs only",
        gradients=("rewards",),
        bound=FLOAT32,
    ),
    Claim(
        "regression on scores",
        reward.regression_loss,
        Paper("Wang et al. 2023 (HelpSteer)", "2311.09528"),
        TESTS + "test_regression_by_hand",
        rankings,
        lambda case: reward.regression_loss(case["rewards"], case["scores"], case["group"])[0],
        definition.regression,
        "the formula, response by response",
        peer_is="has none",
        gradients=("rewards",),
        bound=FLOAT32,
    ),
    Claim(
        "regression as logged: error, mean, variance",
        reward.regression_loss,
        Paper("Wang et al. 2023 (HelpSteer)", "2311.09528"),
        TESTS + "test_regression_by_hand",
        rankings,
        regression_metrics,
        definition.regression_metrics,
        "summed response by response",
        peer_is="has none",
        formula="as above",
    ),
    Claim(
        "the score is read at the last real token, the end included",
        RewardModel.forward,
        Paper("Stiennon et al. 2020, §3.4", "2009.01325"),
        "tests/test_reward_model.py::test_neither_padding_nor_batch_mates_change_a_score",
        padded_rows,
        together,
        each_alone,
        "each row alone: head times its last hidden state, multiplied out; pad = end token",
        peer_is="differs: with pad = eos it cannot see the end; see “where toolkits go wrong”",
        formula=r"r(x, y) = w^\top h_T",
        bound=MODEL,
    ),
]
