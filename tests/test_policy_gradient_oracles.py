"""Worlds small enough to enumerate: what policy-gradient losses push for on average, against what they ought to.

A world is a tree of tokens. A response ends with token 0 or at two tokens, so responses have different lengths and
there are seven of them; the policy is a table of logits, one row per state. Every expectation below is a sum over all
responses (or all groups of them), not a sample.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from auto_bot_tuner.grpo.loss import group_advantages, grpo_loss, rewards_with_kl
from auto_bot_tuner.rlhf.ppo_loss import (
    compute_gae,
    entropy_bonus,
    kl_estimates,
    policy_loss,
    token_rewards,
    value_loss,
)

V = 3
RESPONSES = [(0,)] + [(first, second) for first in (1, 2) for second in range(V)]
IDS = torch.tensor([[*response, 0][:2] for response in RESPONSES])  # (7, 2), right-padded with the end token itself
MASK = torch.tensor([[True, len(response) == 2] for response in RESPONSES])
STATES = torch.tensor([[0, response[0]] for response in RESPONSES])  # (7, 2): the row of the table before each token
REWARDS = torch.tensor([0.3, -1.0, 2.0, 0.5, 0.0, 1.2, -0.7], dtype=torch.float64)
VALUES = torch.tensor([0.4, -0.6, 1.1], dtype=torch.float64)[STATES] * MASK  # any function of the state will do
BETA = 0.7


def table(seed: int) -> torch.Tensor:
    """Logits (states, V), float64."""
    return torch.randn(3, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def logprobs_of(logits: torch.Tensor) -> torch.Tensor:
    """(7, 2) of each response's tokens, 0 under padding."""
    return logits.log_softmax(dim=-1)[STATES, IDS] * MASK


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """(7,) of the responses."""
    return logprobs_of(logits).sum(dim=1).exp()


def gradient(objective: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(objective, logits)
    return gradient


def true_gradient(logits: torch.Tensor, rewards: torch.Tensor = REWARDS) -> torch.Tensor:
    """Of the expected reward, which is differentiated as it stands: a sum over all responses."""
    return gradient((probabilities(logits) * rewards).sum(), logits)


def expected_gradient(
    logits: torch.Tensor, group_size: int, loss_of: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Of -loss_of(rows of a group), over all groups of independent responses."""
    chances = probabilities(logits).detach()
    groups = torch.tensor(list(itertools.product(range(len(RESPONSES)), repeat=group_size)))
    return gradient(sum(-chances[group].prod() * loss_of(group) for group in groups), logits)  # type: ignore[arg-type]


def member(logits: torch.Tensor, loss: str, rewards: torch.Tensor = REWARDS) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss of a group of rows at the first step; dr_grpo's constant length is 1, so that it sums."""

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        logprobs = logprobs_of(logits)[rows]
        advantages = group_advantages(rewards[rows], len(rows), loss=loss)
        return grpo_loss(logprobs, logprobs.detach(), advantages, MASK[rows], loss=loss, max_new_tokens=1)[0]

    return loss_of


# ---- expected gradients ----


@pytest.mark.parametrize("group_size", [2, 3])
def test_rloo_climbs_the_expected_reward(group_size: int) -> None:
    logits = table(1)
    found = expected_gradient(logits, group_size, member(logits, "rloo"))
    torch.testing.assert_close(found, true_gradient(logits), atol=1e-6, rtol=1e-5)


def test_reinforce_climbs_it_though_its_baseline_comes_from_another_prompt() -> None:
    """A batch of one response to each of two prompts, which have tables of their own and other rewards."""
    logits, other, other_rewards = table(1), table(2), REWARDS.flip(0) * 3 + 1
    chances = probabilities(logits).detach()[:, None] * probabilities(other).detach()  # (7, 7)
    total = torch.zeros((), dtype=torch.float64)
    for i, j in itertools.product(range(len(RESPONSES)), repeat=2):
        logprobs = torch.stack([logprobs_of(logits)[i], logprobs_of(other)[j]])
        rewards = torch.stack([REWARDS[i], other_rewards[j]])
        advantages = group_advantages(rewards, 1, loss="reinforce")
        loss, _ = grpo_loss(logprobs, logprobs.detach(), advantages, MASK[[i, j]], loss="reinforce")
        total = total - chances[i, j] * loss
    found = torch.autograd.grad(total, (logits, other))
    expected = true_gradient(logits) / 2, true_gradient(other, other_rewards) / 2  # the mean over prompts
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.0, BETA])
def test_ppos_first_step_climbs_the_expected_reward_less_the_divergence(beta: float) -> None:
    """lambda 1, no whitening, sums over a response; values are a baseline, whatever they say of a state."""
    logits, reference = table(1), logprobs_of(table(2)).detach()

    def loss_of(row: torch.Tensor) -> torch.Tensor:
        logprobs = logprobs_of(logits)[row]
        rewards = token_rewards(REWARDS[row], logprobs, reference[row], MASK[row], beta)
        advantages, _ = compute_gae(rewards, VALUES[row], 1.0, 1.0, MASK[row])
        return policy_loss(logprobs, logprobs.detach(), advantages, MASK[row])[0] * MASK[row].sum()

    divergence = (probabilities(logits) * (logprobs_of(logits) - reference).sum(dim=1)).sum()
    expected = true_gradient(logits) - beta * gradient(divergence, logits)
    torch.testing.assert_close(expected_gradient(logits, 1, loss_of), expected, atol=1e-6, rtol=1e-5)


def test_divergence_in_rloos_reward_is_the_divergence_of_whole_responses() -> None:
    logits, reference = table(1), logprobs_of(table(2)).detach()
    shaped = rewards_with_kl(REWARDS, logprobs_of(logits), reference, MASK, BETA)
    assert not shaped.requires_grad
    divergence = (probabilities(logits) * (logprobs_of(logits) - reference).sum(dim=1)).sum()
    expected = true_gradient(logits) - BETA * gradient(divergence, logits)
    found = expected_gradient(logits, 2, member(logits, "rloo", shaped))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("group_size", [2, 3])
def test_dr_grpo_climbs_at_one_minus_one_over_g_of_the_slope(group_size: int) -> None:
    logits = table(1)
    found = expected_gradient(logits, group_size, member(logits, "dr_grpo"))
    torch.testing.assert_close(found, (1 - 1 / group_size) * true_gradient(logits), atol=1e-6, rtol=1e-5)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def test_grpo_climbs_another_hill() -> None:
    """Divided by the deviation and by lengths, its expected direction is not that of the reward."""
    logits = table(1)
    assert cosine(expected_gradient(logits, 3, member(logits, "dr_grpo")), true_gradient(logits)) > 1 - 1e-9
    assert cosine(expected_gradient(logits, 3, member(logits, "grpo")), true_gradient(logits)) < 0.99


def weight_of_a_prompt(solved: float, group_size: int) -> float:
    """grpo's expected gradient per unit of the true one, where one of two answers is right and has this probability."""
    logit = torch.tensor(math.log(solved / (1 - solved)), dtype=torch.float64, requires_grad=True)
    logprobs = torch.stack([logit, torch.zeros_like(logit)]).log_softmax(0)[:, None]  # (2, 1): right, wrong
    rewards, total = torch.tensor([1.0, 0.0]), torch.zeros((), dtype=torch.float64)
    for group in itertools.product(range(2), repeat=group_size):
        rows = logprobs[list(group)]
        advantages = group_advantages(rewards[list(group)], group_size, loss="grpo")
        loss, _ = grpo_loss(rows, rows.detach(), advantages, torch.ones_like(rows, dtype=torch.bool))
        total = total - rows.detach().exp().prod() * loss
    return gradient(total, logit).item() / (solved * (1 - solved))  # the true one by the logit is p (1 - p)


def weight_by_formula(solved: float, size: int) -> float:
    """With k of G right, s^2 = k (G - k) / (G (G - 1)), and the gradient is k (G - k) / G^2 / s: the mean over k."""
    total = 0.0
    for right in range(1, size):
        chance = math.comb(size, right) * solved**right * (1 - solved) ** (size - right)
        deviation = math.sqrt(right * (size - right) / (size * (size - 1)))
        total += chance * right * (size - right) / size**2 / (deviation + 1e-4)
    return total / (solved * (1 - solved))


def test_the_deviation_makes_hard_prompts_count_more() -> None:
    even, hard = weight_of_a_prompt(0.5, 8), weight_of_a_prompt(0.05, 8)
    assert even == pytest.approx(weight_by_formula(0.5, 8), rel=1e-4)
    assert hard == pytest.approx(weight_by_formula(0.05, 8), rel=1e-4)
    assert hard / even > 1.25  # 1, were it the true gradient times a constant


# ---- divergence in the loss ----


def kl_gradient_by_state(logits: torch.Tensor, reference: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Of sum over states of (how often the old policy comes there) times KL(policy || reference) there."""
    visits = torch.cat([torch.ones(1), old.softmax(dim=-1)[0, 1:]]).detach()  # (3,): the start, after 1, after 2
    logprobs = logits.log_softmax(dim=-1)
    return gradient((visits * (logprobs.exp() * (logprobs - reference.log_softmax(dim=-1))).sum(dim=-1)).sum(), logits)


def expected_kl_gradient(logits: torch.Tensor, reference: torch.Tensor, old: torch.Tensor, kind: str) -> torch.Tensor:
    """Of grpo_loss with beta 1 and no advantages (dr_grpo's sums), over the responses of the old policy."""
    chances, old_logprobs = probabilities(old).detach(), logprobs_of(old).detach()
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(RESPONSES)):
        rows = slice(row, row + 1)
        loss, _ = grpo_loss(
            logprobs_of(logits)[rows],
            old_logprobs[rows],
            torch.zeros(1),
            MASK[rows],
            loss="dr_grpo",
            max_new_tokens=1,
            reference_logprobs=logprobs_of(reference)[rows].detach(),
            beta=1.0,
            kl_kind=kind,
        )
        total = total + chances[row] * loss
    return gradient(total, logits)


@pytest.mark.parametrize("kind", ["k2", "k3"])
@pytest.mark.parametrize("moved", [False, True], ids=["first-step", "later-step"])
def test_k2_and_k3_times_the_ratio_have_the_gradient_of_the_divergence(kind: str, moved: bool) -> None:
    logits, reference = table(1), table(2)
    old = table(3) if moved else logits.detach()
    found = expected_kl_gradient(logits, reference, old, kind)
    torch.testing.assert_close(found, kl_gradient_by_state(logits, reference, old), atol=1e-9, rtol=1e-9)


def test_plain_k3_has_the_gradient_of_the_other_divergence() -> None:
    """Even at the first step: that of KL(reference || policy), which is not the one that was meant."""
    logits, reference = table(1), table(2)
    found = expected_kl_gradient(logits, reference, logits.detach(), "k3_plain")
    visits = torch.cat([torch.ones(1), logits.softmax(dim=-1)[0, 1:]]).detach()
    goal = reference.log_softmax(dim=-1).detach()
    backwards = (visits * (goal.exp() * (goal - logits.log_softmax(dim=-1))).sum(dim=-1)).sum()
    torch.testing.assert_close(found, gradient(backwards, logits), atol=1e-9, rtol=1e-9)
    assert cosine(found, kl_gradient_by_state(logits, reference, logits.detach())) < 0.95


def test_k1_in_the_loss_pushes_nowhere_on_average() -> None:
    logits, reference = table(1), logprobs_of(table(2)).detach()
    k1 = kl_estimates(logprobs_of(logits), reference, MASK, "k1").sum(dim=1)  # (7,)
    found = gradient((probabilities(logits).detach() * k1).sum(), logits)
    assert found.abs().max() < 1e-12
    assert kl_gradient_by_state(logits, table(2), logits.detach()).abs().max() > 0.1


# ---- the optimum ----


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_ppo_reaches_the_optimum_of_reward_less_divergence(beta: float) -> None:
    """pi_ref e^(r / beta) / Z, by rollouts, GAE, a learnt value table, clipping, epochs, minibatches."""
    torch.manual_seed(0)
    reference = table(2).detach()
    policy, values = reference.clone().requires_grad_(), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimum = probabilities(reference) * (REWARDS / beta).exp()
    optimum /= optimum.sum()
    assert (optimum - probabilities(reference)).abs().sum() / 2 > 0.3  # it starts far away
    optimizer = torch.optim.Adam([policy, values], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=80)
    for _ in range(80):
        rows = torch.multinomial(probabilities(policy).detach(), 512, replacement=True)
        mask, old_logprobs = MASK[rows], logprobs_of(policy)[rows].detach()
        old_values = values[STATES[rows]].detach() * mask
        rewards = token_rewards(REWARDS[rows], old_logprobs, logprobs_of(reference)[rows], mask, beta)
        advantages, returns = compute_gae(rewards, old_values, 1.0, 0.95, mask)
        for _ in range(2):
            for part in torch.randperm(512).chunk(2):
                logprobs = logprobs_of(policy)[rows[part]]
                loss, _ = policy_loss(logprobs, old_logprobs[part], advantages[part], mask[part])
                now = values[STATES[rows[part]]]
                loss = loss + value_loss(now, old_values[part], returns[part], mask[part], 0.2)[0]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        schedule.step()
    assert (probabilities(policy) - optimum).abs().sum().item() / 2 < 0.02


def test_the_entropy_bonus_alone_ends_in_indecision() -> None:
    logits = table(1)
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(300):
        entropies = torch.distributions.Categorical(logits=logits).entropy()[:, None]
        loss, _ = entropy_bonus(entropies, torch.ones(3, 1, dtype=torch.bool), 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(
        logits.softmax(dim=-1), torch.full((3, V), 1 / V, dtype=torch.float64), atol=1e-3, rtol=0
    )
