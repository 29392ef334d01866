"""Claims about expectations: what methods push for on average, in a world whose responses can all be listed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import auto_bot_tuner.dpo.loss as dpo
import auto_bot_tuner.grpo.loss as grpo
import auto_bot_tuner.rlhf.ppo_loss as ppo
from proof import worlds
from proof.claims import Bound, Case, Claim, Graded, Paper
from proof.oracles.arithmetic import log_softmax

ORACLES = "tests/test_policy_gradient_oracles.py::"
BANDIT = Bound(1e-6, "advantages are float32; all else is float64")
NO_PEER = "an identity: no peer needed"
SUTTON = Paper("Sutton et al. 2000, theorem 1; Ahmadian et al. 2024", "2402.14740")


def worlds_of(**settings: Any) -> Iterator[Case]:
    for seed in range(3):
        rewards = 2 * torch.randn(7, generator=torch.Generator().manual_seed(90 + seed), dtype=torch.float64)
        yield {"logits": worlds.table(seed).detach(), "rewards": rewards, "seed": seed, **settings}


def expected(case: Case) -> Graded:
    """The member's expected gradient at its first step; dr_grpo's constant length is 1, so that it sums."""
    logits, loss = case["logits"].clone().requires_grad_(), case["loss"]

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        logprobs = worlds.logprobs(logits)[rows]
        advantages = grpo.group_advantages(case["rewards"][rows], len(rows), loss=loss)
        return grpo.grpo_loss(logprobs, logprobs.detach(), advantages, worlds.MASK[rows], loss=loss, max_new_tokens=1)[
            0
        ]

    return Graded(None, worlds.expected_gradient(logits, case["size"], loss_of))


def truth(case: Case) -> Graded:
    slope = worlds.true_gradient(case["logits"], case["rewards"])
    return Graded(None, [case.get("share", 1.0) * x for x in slope])


def first_step_of_ppo(case: Case) -> Graded:
    """lambda 1, no whitening, sums over a response; values are a baseline, whatever they say."""
    logits = case["logits"].clone().requires_grad_()
    values = torch.tensor([0.4, -0.6, 1.1], dtype=torch.float64)[worlds.STATES] * worlds.MASK

    def loss_of(row: torch.Tensor) -> torch.Tensor:
        logprobs, mask = worlds.logprobs(logits)[row], worlds.MASK[row]
        rewards = ppo.token_rewards(case["rewards"][row], logprobs, None, mask, 0.0)
        advantages, _ = ppo.compute_gae(rewards, values[row], 1.0, 1.0, mask)
        return ppo.policy_loss(logprobs, logprobs.detach(), advantages, mask)[0] * mask.sum()

    return Graded(None, worlds.expected_gradient(logits, 1, loss_of))


def preferred() -> Iterator[Case]:
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        reward = torch.randn(4, generator=generator, dtype=torch.float64)
        yield {
            "reward": reward,
            "reference": torch.randn(4, generator=generator, dtype=torch.float64).log_softmax(0),
            "beta": 0.5,
        }


def optimum(case: Case) -> torch.Tensor:
    """Four answers, all pairs as often preferred as Bradley and Terry say, DPO's expected loss minimised."""
    reward, reference = case["reward"], case["reference"]
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    better, worse = torch.tensor([(i, j) for i in range(4) for j in range(4) if i != j]).T
    odds = torch.sigmoid(reward[better] - reward[worse])

    def closure() -> torch.Tensor:
        logits.grad = None
        policy = logits.log_softmax(0)
        h = (policy - reference)[better] - (policy - reference)[worse]
        loss = (odds * dpo.sigmoid_loss(h, case["beta"])).sum()
        loss.backward()
        return loss

    torch.optim.LBFGS([logits], max_iter=300, tolerance_grad=1e-13, tolerance_change=1e-17).step(closure)
    return logits.log_softmax(0)


def closed_form(case: Case) -> list[float]:
    return log_softmax([q + r / case["beta"] for q, r in zip(case["reference"], case["reward"], strict=True)])


def bandit(name: str, test: str, of: Any, ours: Any, paper: Paper = SUTTON, **settings: Any) -> Claim:
    return Claim(
        name,
        of,
        paper,
        ORACLES + test,
        lambda: worlds_of(**settings),
        ours,
        truth,
        "the gradient of the expected reward, by hand over all seven responses",
        peer_is=NO_PEER,
        bound=BANDIT,
        formula=r"E[\hat g] = (1 - \frac1G) \nabla E[r]" if "share" in settings else r"E[\hat g] = \nabla E[r]",
    )


CLAIMS = [
    bandit(
        "RLOO climbs the expected reward",
        "test_rloo_climbs_the_expected_reward",
        grpo.group_advantages,
        expected,
        loss="rloo",
        size=2,
    ),
    bandit(
        "REINFORCE climbs it",
        "test_reinforce_climbs_it_though_its_baseline_comes_from_another_prompt",
        grpo.group_advantages,
        expected,
        loss="reinforce",
        size=3,
    ),
    bandit(
        "Dr. GRPO climbs 1 - 1/G of it",
        "test_dr_grpo_climbs_at_one_minus_one_over_g_of_the_slope",
        grpo.group_advantages,
        expected,
        Paper("Liu et al. 2025", "2503.20783"),
        loss="dr_grpo",
        size=3,
        share=2 / 3,
    ),
    bandit(
        "PPO's first step climbs it, λ = 1",
        "test_ppos_first_step_climbs_the_expected_reward_less_the_divergence",
        ppo.compute_gae,
        first_step_of_ppo,
        Paper("Schulman et al. 2017, eq. 6", "1707.06347"),
    ),
    Claim(
        "DPO's optimum is π_ref e^(r/β) / Z",
        dpo.sigmoid_loss,
        Paper("Rafailov et al. 2023, eq. 4", "2305.18290"),
        "tests/test_dpo_loss.py::test_the_optimum_recovers_a_known_bradley_terry_reward",
        preferred,
        optimum,
        closed_form,
        "the closed form",
        peer_is=NO_PEER,
        bound=Bound(1e-6, "float64, minimised until its gradient is 1e-13"),
        formula=r"\pi^* \propto \pi_{ref} \, e^{r / \beta}",
    ),
]
