"""The statistics of a rollout, worked by hand, with rubbish under the padding: none of it may be read."""

from __future__ import annotations

import math
import statistics
from types import SimpleNamespace

import pytest
import torch

from auto_bot_tuner.rewards.source import Attempt
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.statistics import of_scores, rollout_metrics

LENGTHS = (3, 1, 2, 2)
MASK = torch.arange(3)[None, :] < torch.tensor(LENGTHS)[:, None]  # (4, 3)
HALF, THIRD = math.log(1 / 2), math.log(1 / 3)


def padded(rows: list[list[float]], rubbish: float = 0.0) -> torch.Tensor:
    """(N, R) with `rubbish` behind each row's own numbers."""
    return torch.tensor([row + [rubbish] * (3 - len(row)) for row in rows])


def a_rollout(rubbish: float = 0.0, samples: int = 2, **fields: object) -> Rollout:
    """Two prompts, two responses each, of 3, 1, 2 and 2 tokens; the last did not end."""
    attempt = Attempt(prompt=[], response="", ended=True, row={}, prompt_ids=[1], response_ids=[2])
    return Rollout(
        rows=[0, 0, 1, 1],
        samples=samples,
        attempts=[attempt] * 4,
        responses=torch.zeros(4, 3, dtype=torch.long),
        mask=MASK,
        ended=torch.tensor([True, True, True, False]),
        logprobs=padded([[HALF, HALF, 0.0], [0.0], [HALF, 0.0], [0.0, 0.0]], rubbish),
        **fields,  # type: ignore[arg-type]
    )


def everything(rubbish: float = 0.0) -> Rollout:
    return a_rollout(
        rubbish,
        components={"gold": torch.tensor([2.0, 0.0, 1.0, 1.0]), "length": torch.tensor([0.0, 0.0, 0.0, 4.0])},
        raw_scores=torch.tensor([2.0, 0.0, 1.0, 5.0]),
        scores=torch.tensor([2.0, 0.0, 1.0, 1.0]),  # cut at 2, then a penalty of 1 for the last
        reference_logprobs=padded([[THIRD, HALF, HALF], [0.0], [0.0, 0.0], [0.0, THIRD]], rubbish),
        rewards=padded([[0.5, 0.0, 1.0], [-1.0], [0.0, 2.0], [0.0, 0.5]], rubbish),
        values=padded([[1.0, 1.0, 2.0], [0.0], [1.0, 1.0], [1.0, 1.0]], rubbish),
        returns=padded([[2.0, 2.0, 2.0], [0.0], [1.0, 1.0], [0.0, 0.0]], rubbish),
        advantages=padded([[9.0, 9.0, 9.0], [9.0], [9.0, 9.0], [9.0, 9.0]], rubbish),
    )


@pytest.mark.parametrize("rubbish", [0.0, -1e9, math.inf, math.nan])
def test_every_figure_by_hand(rubbish):
    metrics = rollout_metrics(everything(rubbish))

    assert metrics["response_length"] == 8 / 4 and metrics["eos_rate"] == 3 / 4
    assert metrics["reward"] == (2 + 0 + 1 + 5) / 4  # as the sources gave it
    assert metrics["reward_std"] == pytest.approx(math.sqrt((0 + 4 + 1 + 9) / 4))
    assert metrics["reward_gold"] == 1.0 and metrics["reward_length"] == 1.0
    assert metrics["reward_shaped"] == pytest.approx((1.5 - 1.0 + 2.0 + 0.5) / 4)

    # k1 by token: log(1/2 : 1/3) = log 1.5, 0, log 2 | 0 | -log 2, 0 | 0, log 3
    total = math.log(1.5) + math.log(2) - math.log(2) + math.log(3)
    assert metrics["kl"] == pytest.approx(total / 4, rel=1e-5)
    assert metrics["kl_per_token"] == pytest.approx(total / 8, rel=1e-5)
    by_response = [math.log(1.5) + math.log(2), 0.0, -math.log(2), math.log(3)]
    assert metrics["kl_std"] == pytest.approx(statistics.pstdev(by_response), rel=1e-5)
    # k3 by token: pi_ref / pi - 1 + k1
    k3 = (2 / 3 - 1 + math.log(1.5)) + (1 / 2 - 1 + math.log(2)) + (2 - 1 - math.log(2)) + (1 / 3 - 1 + math.log(3))
    assert metrics["kl_k3"] == pytest.approx(k3 / 4, rel=1e-5)

    # groups (2, 0) and (1, 1) of the scores that the advantages are made of: deviations sqrt 2 (n - 1) and 0
    assert metrics["group_std"] == pytest.approx(math.sqrt(2) / 2) and metrics["groups_without_spread"] == 1 / 2

    # returns - values: 1, 1, 0 | 0 | 0, 0 | -1, -1: mean 0, mean square 4/8; the returns: mean 1, mean square 14/8
    assert metrics["value"] == 1.0
    assert metrics["explained_variance"] == pytest.approx(1 - (4 / 8) / (14 / 8 - 1))
    assert metrics["advantage_std"] == pytest.approx(math.sqrt(4 / 8))


def test_what_is_not_there_yet_is_left_out():
    assert set(rollout_metrics(a_rollout())) == {"response_length", "eos_rate"}
    scored = a_rollout(scores=torch.tensor([1.0, 2.0, 3.0, 4.0]), samples=1)
    assert set(rollout_metrics(scored)) == {"response_length", "eos_rate", "reward", "reward_std"}
    assert rollout_metrics(scored)["reward"] == 2.5  # nothing was clipped: scores are the raw ones
    for half in ({"values": padded([[1.0] * 3] * 4)}, {"returns": padded([[1.0] * 3] * 4)}):  # 5 without 6
        assert set(rollout_metrics(a_rollout(**half))) == {"response_length", "eos_rate"}


def test_the_share_of_groups_that_teach_nothing():
    scores = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 2.0])
    metrics = of_scores(SimpleNamespace(scores=scores, raw_scores=None, components={}, samples=2))
    assert metrics["groups_without_spread"].item() == pytest.approx(2 / 3)
    assert metrics["group_std"].item() == pytest.approx(math.sqrt(2) / 3)


def test_advantages_without_values_are_those_of_valid_tokens():
    metrics = rollout_metrics(a_rollout(advantages=padded([[1.0] * 3, [-1.0], [-1.0, -1.0], [0.0, 0.0]], math.nan)))
    assert metrics["advantage_std"] == pytest.approx(math.sqrt(6 / 8))


def test_k3_near_zero_keeps_its_digits():
    """k1 = 1e-4 makes k3 = k1² / 2 = 5e-9; e^-k1 - 1 in float32 is wrong by up to 6e-8."""
    rollout = a_rollout(reference_logprobs=torch.full((4, 3), -1e-4))
    rollout.logprobs = torch.zeros(4, 3)
    assert rollout_metrics(rollout)["kl_k3"] == pytest.approx(2 * 1e-8 / 2, rel=0.02, abs=0)  # 2 tokens a response


def test_returns_that_never_differ_leave_nothing_to_explain():
    constant = a_rollout(values=padded([[0.5] * 3] * 4), returns=padded([[1.0] * 3] * 4))
    assert rollout_metrics(constant)["explained_variance"] == 0.0


def test_both_estimators_meet_the_exact_divergence():
    """Over every token of a small vocabulary, weighed by its probability, k1 and k3 are the KL of the definition."""
    policy, reference = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.2, 0.6]).double()
    counts = torch.tensor([5, 3, 2])  # ten responses of one token, as often as the policy says
    tokens = torch.arange(3).repeat_interleave(counts)
    rollout = a_rollout()
    rollout.mask, rollout.ended = torch.ones(10, 1, dtype=torch.bool), torch.ones(10, dtype=torch.bool)
    rollout.logprobs, rollout.reference_logprobs = policy.log()[tokens, None], reference.log()[tokens, None]
    exact = float((policy * (policy / reference).log()).sum())
    metrics = rollout_metrics(rollout)
    assert metrics["kl"] == pytest.approx(exact) and metrics["kl_k3"] == pytest.approx(exact)
