"""Claims about what a response got beyond its siblings: the advantages of GRPO's family."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import auto_bot_tuner.grpo.loss as grpo
from proof.cases import written_responses
from proof.claims import Case, Claim, Paper
from proof.oracles import groups as definition
from proof.peers import whole_trainers

TESTS = "tests/test_grpo_loss.py::"
PAPERS = {
    "grpo": Paper("Shao et al. 2024, eq. 3", "2402.03300"),
    "dr_grpo": Paper("Liu et al. 2025 (Dr. GRPO)", "2503.20783"),
    "dapo": Paper("Yu et al. 2025 (DAPO), eq. 8", "2503.14476"),
    "gspo": Paper("Zheng et al. 2025 (GSPO), eq. 5 to 7", "2507.18071"),
    "rloo": Paper("Ahmadian et al. 2024 (RLOO)", "2402.14740"),
    "reinforce": Paper("Williams 1992 (REINFORCE)"),
}
ADVANTAGE = {
    "grpo": r"\frac{r_i - \bar r}{\mathrm{std}(r) + 10^{-4}}",
    "dr_grpo": r"r_i - \bar r",
    "dapo": r"\frac{r_i - \bar r}{\mathrm{std}(r) + 10^{-4}}",
    "gspo": r"\frac{r_i - \bar r}{\mathrm{std}(r) + 10^{-4}}",
    "rloo": r"r_i - \frac{1}{G-1} \sum_{j \ne i} r_j",
    "reinforce": r"r_i - \frac{1}{N-1} \sum_{j \ne i} r_j",
}


def groups(loss: str) -> Iterator[Case]:
    """Groups of 2 to 4; all rewards 0 or 1 in every third case, so that some groups have no spread."""
    for case in written_responses(groups=True, seeds=36, loss=loss):
        rewards = (case["rewards"] > 0).float() if case["seed"] % 3 == 0 else case["rewards"]
        yield case | {"rewards": rewards * (1.0, 100.0)[case["seed"] % 2]}


def advantages(loss: str) -> Claim:
    return Claim(
        f"advantages of {loss}",
        grpo.group_advantages,
        PAPERS[loss],
        TESTS
        + (
            "test_advantages_are_deviations_in_units_of_the_groups_own"
            if loss in grpo.SCALED_BY_STD
            else "test_advantages_of_the_members_that_do_not_divide"
        ),
        partial(groups, loss),
        lambda case: grpo.group_advantages(case["rewards"], case["group_size"], loss=loss),
        definition.advantages,
        "response by response from its siblings' rewards",
        peer_is="has none: it compares within prompts"
        if loss == "reinforce"
        else "inside its trainers: the rows of updates below",
        formula=ADVANTAGE[loss],
    )


def told(loss: str) -> Iterator[Case]:
    """The rewards that TRL's trainer is told in its updates."""
    for update in range(whole_trainers.UPDATES):
        rewards = torch.tensor(whole_trainers.rewards(update))
        yield {"rewards": rewards, "group_size": whole_trainers.GROUP, "update": update, "loss": loss}


def in_updates_of_trl(loss: str, trainer: str, scale_rewards: str) -> Claim:
    return Claim(
        f"advantages of {loss}, in updates of TRL's trainer",
        grpo.group_advantages,
        PAPERS[loss],
        TESTS + "test_advantages_of_the_members_that_do_not_divide",
        partial(told, loss),
        lambda case: grpo.group_advantages(case["rewards"], case["group_size"], loss=loss),
        definition.advantages,
        "response by response from its siblings' rewards",
        lambda case: whole_trainers.advantages(trainer, scale_rewards)[case["update"]],
        f"`{trainer}Trainer` whole{f', `scale_rewards={scale_rewards}`' if scale_rewards else ''}: told these rewards",
        formula="as above",
    )


CLAIMS = [
    *(advantages(loss) for loss in PAPERS),
    in_updates_of_trl("grpo", "GRPO", "group"),
    in_updates_of_trl("dr_grpo", "GRPO", "none"),
    in_updates_of_trl("rloo", "RLOO", ""),
    Claim(
        "groups that teach",
        grpo.has_spread,
        PAPERS["dapo"],
        TESTS + "test_spread_is_told_per_group",
        partial(groups, "grpo"),
        lambda case: grpo.has_spread(case["rewards"], case["group_size"]),
        lambda case: [
            len(set(case["rewards"][i : i + case["group_size"]])) > 1
            for i in range(0, len(case["rewards"]), case["group_size"])
        ],
        "more than one different reward",
        peer_is="logs the share of the others: not compared",
        formula=r"\max r > \min r",
    ),
]
