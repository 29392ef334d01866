"""The reward losses: hand-worked numbers, gradients by their definition, and every pair of a ranking written out."""

from __future__ import annotations

import itertools
import math
from statistics import fmean

import pytest
import torch

from auto_bot_tuner.rlhf import kwise_loss, ranking_loss, regression_loss


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_hand_worked_loss() -> None:
    loss, metrics = ranking_loss(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0]))
    expected = -(math.log(sigmoid(1)) + math.log(sigmoid(-3))) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert metrics == {
        "loss": pytest.approx(expected, abs=1e-6),
        "accuracy": 0.5,
        "reward_margin": -1.0,
        "chosen_rewards": 1.0,
        "rejected_rewards": 2.0,
    }


def test_margin_centering_and_smoothing_by_hand() -> None:
    chosen, rejected = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0])
    loss, metrics = ranking_loss(chosen, rejected, torch.tensor([0.5, 1.0]), centering=0.1, label_smoothing=0.2)
    first = -0.8 * math.log(sigmoid(0.5)) - 0.2 * math.log(sigmoid(-0.5)) + 0.1 * 3**2
    second = -0.8 * math.log(sigmoid(-4)) - 0.2 * math.log(sigmoid(4)) + 0.1 * 3**2
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-6)
    assert metrics["accuracy"] == 0.5 and metrics["reward_margin"] == -1.0  # of the scores, whatever margin is asked
    assert ranking_loss(chosen, rejected, 0.5)[0] == ranking_loss(chosen, rejected, torch.tensor([0.5, 0.5]))[0]


def test_a_model_that_scores_all_alike_guesses() -> None:
    loss, metrics = ranking_loss(torch.full((4,), 7.0), torch.full((4,), 7.0))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["accuracy"] == 0.5


def test_a_constant_added_to_all_scores_is_not_seen_unless_centred() -> None:
    chosen, rejected = torch.randn(6), torch.randn(6)
    assert torch.allclose(ranking_loss(chosen + 9, rejected + 9)[0], ranking_loss(chosen, rejected)[0], atol=1e-6)
    assert ranking_loss(chosen + 9, rejected + 9, centering=0.01)[0] > ranking_loss(chosen, rejected, centering=0.01)[0]


def test_the_gradient_is_the_probability_of_the_other_outcome() -> None:
    chosen, rejected = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
    ranking_loss(chosen, rejected, 0.3)[0].backward()
    for i in range(5):
        other = sigmoid(-(chosen[i].item() - rejected[i].item() - 0.3))
        assert chosen.grad[i].item() == pytest.approx(-other / 5, abs=1e-6)
        assert rejected.grad[i].item() == pytest.approx(other / 5, abs=1e-6)


def test_smoothed_judgements_have_a_best_difference_that_is_finite() -> None:
    eps = 0.1
    best = torch.tensor([math.log((1 - eps) / eps)], requires_grad=True)
    ranking_loss(best, torch.zeros(1), label_smoothing=eps)[0].backward()
    assert best.grad.item() == pytest.approx(0, abs=1e-6)


def test_scores_far_apart_stay_finite() -> None:
    assert ranking_loss(torch.tensor([-1e4]), torch.tensor([1e4]))[0].item() == pytest.approx(2e4)
    assert ranking_loss(torch.tensor([1e4]), torch.tensor([-1e4]), label_smoothing=0.0)[0].item() == 0.0


def test_rankings_are_all_their_pairs_and_each_prompt_weighs_once() -> None:
    rankings = [[0.3, -1.2, 2.0, 0.1], [1.0, 0.4], [0.0, 0.7, -0.7]]  # best first
    rewards = torch.tensor(sum(rankings, []), requires_grad=True)
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    loss, metrics = kwise_loss(rewards, group)
    pairs = [list(itertools.combinations(ranking, 2)) for ranking in rankings]
    assert [len(found) for found in pairs] == [6, 1, 3]
    expected = fmean(fmean(-math.log(sigmoid(better - worse)) for better, worse in found) for found in pairs)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert metrics["accuracy"] == pytest.approx(fmean(fmean(b > w for b, w in found) for found in pairs))
    assert metrics["reward_margin"] == pytest.approx(fmean(fmean(b - w for b, w in found) for found in pairs))
    loss.backward()
    assert rewards.grad[4].item() == pytest.approx(-sigmoid(-0.6) / 3, abs=1e-6)


def test_a_ranking_of_two_is_a_pair() -> None:
    chosen, rejected = torch.randn(5), torch.randn(5)
    rewards = torch.stack([chosen, rejected], dim=1).flatten()
    group = torch.arange(5).repeat_interleave(2)
    settings = {"centering": 0.05, "label_smoothing": 0.1}
    loss, metrics = kwise_loss(rewards, group, torch.full((10,), math.nan), **settings)
    pair_loss, pair_metrics = ranking_loss(chosen, rejected, **settings)
    assert loss.item() == pytest.approx(pair_loss.item(), abs=1e-6)
    assert metrics == pytest.approx(pair_metrics, abs=1e-6)


def test_ties_in_a_ranking_say_nothing() -> None:
    rewards, group = torch.tensor([0.5, 2.0, -1.0]), torch.tensor([0, 0, 0])
    loss, _ = kwise_loss(rewards, group, torch.tensor([5.0, 5.0, 1.0]))
    assert loss.item() == pytest.approx(-(math.log(sigmoid(1.5)) + math.log(sigmoid(3.0))) / 2, abs=1e-6)


def test_regression_by_hand() -> None:
    rewards, scores = torch.tensor([1.0, 2.0, -1.0], requires_grad=True), torch.tensor([0.0, 4.0, -1.0])
    loss, metrics = regression_loss(rewards, scores)
    assert loss.item() == pytest.approx((1 + 4 + 0) / 3)
    assert metrics["loss"] == loss.item()
    assert metrics["absolute_error"] == pytest.approx(1.0)
    assert metrics["mean_reward"] == pytest.approx((1 + 2 - 1) / 3)
    assert metrics["score_variance"] == pytest.approx((0 + 16 + 1) / 3)
    loss.backward()
    assert rewards.grad.tolist() == pytest.approx([2 / 3, -4 / 3, 0.0])
    grouped, _ = regression_loss(rewards, scores, torch.tensor([0, 0, 1]))  # the third is a prompt of its own
    assert grouped.item() == pytest.approx(((1 + 4) / 2 + 0) / 2)


def test_bfloat16_scores_are_compared_in_float32() -> None:
    chosen, rejected = torch.tensor([100.0]).bfloat16(), torch.tensor([99.5]).bfloat16()
    assert ranking_loss(chosen, rejected)[0].dtype == torch.float32
    chosen, rejected = torch.tensor([3.0, -1.0, 0.5]), torch.tensor([1.0, 2.0, 0.25])  # bfloat16 holds these, not 1/3
    assert ranking_loss(chosen.bfloat16(), rejected.bfloat16()) == ranking_loss(chosen, rejected)


def test_tensors_are_born_where_the_scores_are() -> None:
    rewards, group, scores = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0, 0, 0]), torch.tensor([3.0, 1.0, 1.0])
    expected = kwise_loss(rewards, group, scores), regression_loss(rewards, scores), ranking_loss(rewards, scores)
    with torch.device("meta"):  # what names no device would be there
        found = kwise_loss(rewards, group, scores), regression_loss(rewards, scores), ranking_loss(rewards, scores)
    assert found == expected
