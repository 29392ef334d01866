"""PPO's arithmetic against definitions written out here, hand-worked numbers, and exact KLs of a small vocabulary."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
import torch

from auto_bot_tuner.rlhf import PPOConfig
from auto_bot_tuner.rlhf.kl_controller import AdaptiveKL
from auto_bot_tuner.rlhf.ppo_loss import (
    compute_gae,
    entropy_bonus,
    explained_variance,
    kl_estimates,
    kl_penalty,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)

LENGTHS = [5, 1, 3, 4]
R = 6


def mask_of(lengths: list[int], width: int = R) -> torch.Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def random_rows(count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """`count` tensors (4, R), 0 under padding."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, len(LENGTHS), R, generator=generator) * mask_of(LENGTHS))


def littered(x: torch.Tensor) -> torch.Tensor:
    """The same, with rubbish under padding."""
    return torch.where(mask_of(LENGTHS), x, 1e9)


def one_token(number: float) -> torch.Tensor:
    return torch.tensor([[number]])


REAL = one_token(1).bool()


# ---- rewards and advantages ----


def gae_by_definition(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """The double sum of 1506.02438, eq. 16, over one response without padding."""
    length = len(rewards)
    after = [*values[1:], 0.0]
    delta = [rewards[t] + gamma * after[t] - values[t] for t in range(length)]
    advantages = [sum((gamma * lam) ** (u - t) * delta[u] for u in range(t, length)) for t in range(length)]
    return advantages, [advantage + value for advantage, value in zip(advantages, values, strict=True)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (1.0, 1.0), (0.9, 0.0), (0.9, 0.7)])
def test_gae_is_its_double_sum_whatever_stands_under_padding(gamma: float, lam: float) -> None:
    rewards, values = random_rows(2)
    advantages, returns = compute_gae(littered(rewards), littered(values), gamma, lam, mask_of(LENGTHS))
    for row, length in enumerate(LENGTHS):
        expected = gae_by_definition(rewards[row, :length].tolist(), values[row, :length].tolist(), gamma, lam)
        assert advantages[row, :length].tolist() == pytest.approx(expected[0], abs=1e-5)
        assert returns[row, :length].tolist() == pytest.approx(expected[1], abs=1e-5)
        assert not advantages[row, length:].any() and not returns[row, length:].any()


def test_gae_worked_by_hand() -> None:
    rewards, values, mask = torch.tensor([[0.0, 0.0, 1.0]]), torch.full((1, 3), 0.5), mask_of([3], 3)
    advantages, returns = compute_gae(rewards, values, 0.5, 0.5, mask)
    assert advantages.tolist() == [[-0.28125, -0.125, 0.5]]  # deltas -0.25, -0.25, 0.5; a quarter of the next is added
    assert returns.tolist() == [[0.21875, 0.375, 1.0]]
    assert compute_gae(rewards, values, 1.0, 1.0, mask)[1].tolist() == [[1.0, 1.0, 1.0]]  # what is yet to come


def test_gae_gives_numbers_through_which_no_gradient_flows() -> None:
    rewards, values = random_rows(2)
    advantages, returns = compute_gae(rewards, values.requires_grad_(), 1.0, 0.95, mask_of(LENGTHS))
    assert not advantages.requires_grad and not returns.requires_grad


def test_the_score_lands_on_the_last_real_token_and_the_divergence_on_every_one() -> None:
    logprobs, reference = random_rows(2)
    scores = torch.tensor([1.0, -2.0, 3.0, 4.0])
    alone = token_rewards(scores, logprobs, None, mask_of(LENGTHS), 0.1)
    for row, length in enumerate(LENGTHS):
        assert alone[row].tolist() == [scores[row].item() if t == length - 1 else 0.0 for t in range(R)]
    rewards = token_rewards(scores, littered(logprobs), reference, mask_of(LENGTHS), 0.1)
    torch.testing.assert_close(rewards, alone - 0.1 * (logprobs - reference))
    assert not rewards[~mask_of(LENGTHS)].any()


def test_whitening_is_of_all_valid_tokens_of_the_batch_together() -> None:
    (x,) = random_rows(1)
    x, mask = 3 * x + torch.tensor([[10.0], [0.0], [0.0], [-5.0]]), mask_of(LENGTHS)
    valid = x[mask].tolist()
    mean, deviation = statistics.mean(valid), statistics.pstdev(valid)
    white = whiten(littered(x), mask)
    assert white[mask].tolist() == pytest.approx([(value - mean) / deviation for value in valid], abs=1e-5)
    assert not white[~mask].any()
    kept = whiten(littered(x), mask, shift_mean=False)
    assert kept[mask].tolist() == pytest.approx([(value - mean) / deviation + mean for value in valid], abs=1e-5)
    assert not kept[~mask].any()
    assert whiten(one_token(7.0), REAL).item() == 0  # no variance: nothing is better than anything


# ---- divergence ----


def small_distributions(distance: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (5,) of a policy and a reference over five tokens."""
    generator = torch.Generator().manual_seed(1)
    logits, other = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    return (logits + distance * other).log_softmax(0), logits.log_softmax(0)


def exact_kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return sum(math.exp(a) * (a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True))


def test_k1_and_k3_meet_the_exact_divergence_and_k2_comes_near_it() -> None:
    policy, reference = small_distributions(2.0)
    real = torch.ones(5, 1, dtype=torch.bool)
    estimates = {
        kind: kl_estimates(policy[:, None], reference[:, None], real, kind)[:, 0] for kind in ("k1", "k2", "k3")
    }
    expected = {kind: (policy.exp() * estimate).sum().item() for kind, estimate in estimates.items()}
    exact = exact_kl(policy, reference)
    assert expected["k1"] == pytest.approx(exact, abs=1e-9)
    assert expected["k3"] == pytest.approx(exact, abs=1e-9)
    assert expected["k2"] != pytest.approx(exact, rel=0.02)
    assert (estimates["k1"] < 0).any() and (estimates["k2"] >= 0).all() and (estimates["k3"] >= 0).all()
    near, reference = small_distributions(0.01)
    k2 = kl_estimates(near[:, None], reference[:, None], real, "k2")[:, 0]
    assert (near.exp() * k2).sum().item() == pytest.approx(exact_kl(near, reference), rel=0.02)


def test_k3_keeps_its_digits_where_the_models_nearly_agree() -> None:
    for difference in (1e-3, -1e-4):
        k3 = kl_estimates(one_token(difference), one_token(0.0), REAL, "k3").item()
        exact = math.fsum((-difference) ** n / math.factorial(n) for n in range(2, 8))  # the series of e^-d - 1 + d
        assert k3 == pytest.approx(exact, rel=1e-2)


def test_the_penalty_reports_nats_per_response_and_nothing_of_padding() -> None:
    logprobs, reference = random_rows(2)
    penalty, metrics = kl_penalty(littered(logprobs), reference, mask_of(LENGTHS), "k2")
    torch.testing.assert_close(penalty, (logprobs - reference) ** 2 / 2)
    rows = [(logprobs - reference)[row, :length].tolist() for row, length in enumerate(LENGTHS)]
    assert metrics["kl"] == pytest.approx(statistics.mean(sum(row) for row in rows), abs=1e-5)
    k3 = [sum(math.exp(-d) - 1 + d for d in row) for row in rows]
    assert metrics["kl_k3"] == pytest.approx(statistics.mean(k3), abs=1e-5)
    torch.testing.assert_close(kl_penalty(logprobs, reference, mask_of(LENGTHS))[0], logprobs - reference)  # k1
    with pytest.raises(ValueError, match=r"kind 'k4' is none of k1, k2, k3$"):
        kl_penalty(logprobs, reference, mask_of(LENGTHS), "k4")  # type: ignore[arg-type]


# ---- the three losses ----


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "is_pushed"),
    [
        (1.5, 1.0, -1.2, False),  # has risen enough
        (1.5, -1.0, 1.5, True),  # has risen, and should have fallen: all of it counts
        (0.5, 1.0, -0.5, True),
        (0.5, -1.0, 0.8, False),  # has fallen enough
        (1.1, 1.0, -1.1, True),
        (0.9, -1.0, 0.9, True),
    ],
)
def test_the_clip_ends_the_push_in_the_advantages_own_direction_only(
    ratio: float, advantage: float, expected: float, is_pushed: bool
) -> None:
    logprobs = one_token(math.log(ratio)).requires_grad_()
    loss, metrics = policy_loss(logprobs, one_token(0.0), one_token(advantage), REAL, clip_ratio=0.2)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(-advantage * ratio if is_pushed else 0.0, abs=1e-6)
    assert metrics["clip_fraction"] == (0.0 if is_pushed else 1.0)
    assert metrics["ratio"] == pytest.approx(ratio, abs=1e-6)
    assert metrics["ratio_gap"] == pytest.approx(abs(ratio - 1), abs=1e-6)
    assert metrics["approx_kl"] == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)  # k3: positive, token by token


def test_probabilities_may_rise_further_than_they_may_fall_where_so_asked() -> None:
    risen, fallen = one_token(math.log(1.25)), one_token(math.log(0.75))
    up, _ = policy_loss(risen, one_token(0.0), one_token(1.0), REAL, 0.2, clip_ratio_high=0.28)
    down, _ = policy_loss(fallen, one_token(0.0), one_token(-1.0), REAL, 0.2, clip_ratio_high=0.28)
    assert up.item() == pytest.approx(-1.25) and down.item() == pytest.approx(0.8)


def test_approx_kl_is_that_of_the_old_policy_to_the_new() -> None:
    new, _ = small_distributions()
    old = torch.full_like(new, -math.log(5))  # uniform: each token once is its expectation
    _, metrics = policy_loss(new[:, None], old[:, None], torch.zeros(5, 1), torch.ones(5, 1, dtype=torch.bool))
    assert metrics["approx_kl"] == pytest.approx(exact_kl(old, new), abs=1e-6)


def test_the_first_step_has_no_loss_but_a_gradient() -> None:
    """Rule 33: ratio 1, nothing clipped, a loss of 0 for whitened advantages; the gradient is that of -A log pi."""
    logprobs, raw = random_rows(2)
    mask, advantages = mask_of(LENGTHS), whiten(raw, mask_of(LENGTHS))
    loss, metrics = policy_loss(logprobs.requires_grad_(), logprobs.detach(), advantages, mask)
    assert abs(loss.item()) < 1e-6
    assert {name: metrics[name] for name in ("clip_fraction", "approx_kl", "ratio", "ratio_gap")} == {
        "clip_fraction": 0.0,
        "approx_kl": 0.0,
        "ratio": 1.0,
        "ratio_gap": 0.0,
    }
    (gradient,) = torch.autograd.grad(loss, logprobs)
    torch.testing.assert_close(gradient, -advantages / sum(LENGTHS))
    assert gradient.norm() > 0.1


@pytest.mark.parametrize(
    ("value", "target", "clip", "expected", "gradient"),
    [
        (1.0, 2.0, 0.2, 0.5 * 1.8**2, 0.0),  # moved by 1 towards the return: 0.2 of it counts
        (1.0, 0.0, 0.2, 0.5, 1.0),  # moved away: the larger error counts
        (0.1, 2.0, 0.2, 0.5 * 1.9**2, -1.9),  # within the clip
        (1.0, 2.0, 0.0, 0.5, -1.0),  # no clip
        (1.0, 0.75, 0.5, 0.5 * 0.25**2, 0.125),  # both are as wrong, on either side: half of its gradient is left
    ],
)
def test_values_get_no_credit_beyond_the_clip(
    value: float, target: float, clip: float, expected: float, gradient: float
) -> None:
    values = one_token(value).requires_grad_()
    loss, metrics = value_loss(values, one_token(0.0), one_token(target), REAL, clip)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert values.grad is not None and values.grad.item() == pytest.approx(gradient, abs=1e-6)
    assert metrics["value_clip_fraction"] == float(gradient == 0)


@pytest.mark.parametrize("clip", [0.25, 0.75, 0.0])
def test_the_value_loss_is_its_definition_token_by_token(clip: float) -> None:
    """Values that rose and fell, from any old value, towards any return."""
    values, old_values, returns = random_rows(3)
    found, metrics = value_loss(values, old_values, returns, mask_of(LENGTHS), clip)
    losses, clipped = [], 0
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            value, old, target = (x[row, t].item() for x in (values, old_values, returns))
            held = old + min(max(value - old, -clip), clip) if clip else value
            losses.append(max((value - target) ** 2, (held - target) ** 2) / 2)
            clipped += (held - target) ** 2 > (value - target) ** 2
    assert found.item() == metrics["value_loss"] == pytest.approx(statistics.mean(losses), abs=1e-6)
    assert metrics["value_clip_fraction"] == pytest.approx(clipped / sum(LENGTHS))


def test_what_is_not_given_is_as_the_settings_have_it() -> None:
    rows, mask, config = random_rows(3), mask_of(LENGTHS), PPOConfig()
    loss, metrics = policy_loss(*rows, mask)
    assert torch.equal(loss, policy_loss(*rows, mask, config.clip_ratio)[0])
    assert metrics["policy_loss"] == loss.item()
    assert torch.equal(value_loss(*rows, mask)[0], value_loss(*rows, mask, config.value_clip)[0])


def test_explained_variance_is_one_for_foresight_and_zero_for_a_constant() -> None:
    returns, noise = random_rows(2)
    mask = mask_of(LENGTHS)
    assert explained_variance(littered(returns), returns, mask).item() == pytest.approx(1)
    assert explained_variance(torch.full_like(returns, 3.0), littered(returns), mask).item() == pytest.approx(
        0, abs=1e-5
    )
    assert explained_variance(-returns, returns, mask).item() == pytest.approx(-3, abs=1e-4)
    assert explained_variance(noise, torch.ones_like(returns), mask).item() == 0
    valid, off = returns[mask].tolist(), (returns - noise)[mask].tolist()
    expected = 1 - statistics.pvariance(off) / statistics.pvariance(valid)
    assert value_loss(noise, noise, returns, mask, 0.2)[1]["explained_variance"] == pytest.approx(expected, abs=1e-5)


def test_the_entropy_bonus_rewards_indecision() -> None:
    entropies = torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]], requires_grad=True)
    loss, metrics = entropy_bonus(entropies, mask_of([2, 1], 3), 0.1)
    assert loss.item() == pytest.approx(-0.2) and metrics == {"entropy": pytest.approx(2.0)}
    (gradient,) = torch.autograd.grad(loss, entropies)
    torch.testing.assert_close(gradient, torch.tensor([[-0.1, -0.1, 0.0], [-0.1, 0.0, 0.0]]) / 3)


Loss = Callable[..., tuple[torch.Tensor, dict[str, float]]]


@pytest.mark.parametrize("loss_of", [policy_loss, value_loss], ids=["policy", "value"])
def test_padding_neither_counts_nor_learns(loss_of: Loss) -> None:
    """Rubbish under padding, or more padding, changes neither loss, metrics nor gradient."""
    first, second, third = random_rows(3)
    first.requires_grad_()
    loss, metrics = loss_of(first, second, third, mask_of(LENGTHS), 0.2)
    (gradient,) = torch.autograd.grad(loss, first)
    dirty, dirty_metrics = loss_of(littered(first), littered(second), littered(third), mask_of(LENGTHS), 0.2)
    (dirty_gradient,) = torch.autograd.grad(dirty, first)
    torch.testing.assert_close((dirty, dirty_gradient), (loss, gradient))
    assert dirty_metrics == pytest.approx(metrics, abs=1e-6)
    wide = [torch.nn.functional.pad(x, (0, 3)) for x in (first, second, third)]
    torch.testing.assert_close(loss_of(*wide, mask_of(LENGTHS, R + 3), 0.2)[0], loss)


@pytest.mark.parametrize("loss_of", [policy_loss, value_loss], ids=["policy", "value"])
def test_micro_batches_weighed_by_their_tokens_make_the_whole_batchs_loss(loss_of: Loss) -> None:
    rows, mask = random_rows(3), mask_of(LENGTHS)
    whole, metrics = loss_of(*rows, mask, 0.2)
    parts = [loss_of(*(x[half] for x in rows), mask[half], 0.2) for half in (slice(0, 1), slice(1, 4))]
    weights = [LENGTHS[0] / sum(LENGTHS), sum(LENGTHS[1:]) / sum(LENGTHS)]
    assert sum(w * part.item() for w, (part, _) in zip(weights, parts, strict=True)) == pytest.approx(whole.item())
    for name in metrics.keys() - {"explained_variance"}:  # which is no mean
        mean = sum(w * part[name] for w, (_, part) in zip(weights, parts, strict=True))
        assert mean == pytest.approx(metrics[name], abs=1e-6), name


def test_tensors_are_born_where_the_rewards_are() -> None:
    first, second, third = random_rows(3)
    mask, scores = mask_of(LENGTHS), torch.ones(len(LENGTHS))

    def everything() -> list[torch.Tensor]:
        return [
            token_rewards(scores, first, second, mask, 0.1),
            *compute_gae(first, second, 1.0, 0.95, mask),
            whiten(first, mask),
            explained_variance(first, second, mask),
            policy_loss(first, second, third, mask)[0],
            value_loss(first, second, third, mask)[0],
        ]

    expected = everything()
    with torch.device("meta"):  # what names no device would be there
        found = everything()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# ---- the price of divergence ----


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (12.0, 0.1 * (1 + 0.2 * 256 / 10_000)),  # twice the target: the error is cut to 0.2
        (6.6, 0.1 * (1 + 0.1 * 256 / 10_000)),
        (6.0, 0.1),
        (5.4, 0.1 * (1 - 0.1 * 256 / 10_000)),
        (-3.0, 0.1 * (1 - 0.2 * 256 / 10_000)),
    ],
)
def test_the_coefficient_moves_as_ziegler_has_it(kl: float, expected: float) -> None:
    assert AdaptiveKL(0.1, target=6.0, horizon=10_000).update(kl, 256) == pytest.approx(expected, rel=1e-12)


def test_the_controller_brings_the_divergence_to_its_target() -> None:
    controller = AdaptiveKL(0.01, target=4.0, horizon=1000)
    for _ in range(200):
        controller.update(1 / controller.coefficient, 200)  # a policy that goes as far as it can afford
    assert 1 / controller.coefficient == pytest.approx(4.0, rel=0.01)


def test_the_controller_goes_on_where_it_was_saved_and_stands_still_without_a_target() -> None:
    controller, resumed = AdaptiveKL(0.1, 6.0), AdaptiveKL(0.3, 6.0)
    controller.update(9.0, 512)
    resumed.load_state_dict(controller.state_dict())
    assert resumed.update(5.0, 512) == controller.update(5.0, 512) != 0.1
    fixed = AdaptiveKL(0.1)
    assert fixed.update(1e6, 512) == fixed.coefficient == 0.1
    assert AdaptiveKL(0.1, 6.0, horizon=10).update(0.0, 10_000) == pytest.approx(0.08)  # never below 0
    with pytest.raises(ValueError, match="set kl_coefficient above 0"):
        AdaptiveKL(0.0, 6.0)
    with pytest.raises(ValueError, match="nan"):
        controller.update(math.nan, 512)
