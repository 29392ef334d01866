"""The GRPO family: advantages by hand, what each member changes, and losses that do not care how a batch is cut."""

from __future__ import annotations

import math
import statistics
from typing import Any, get_args

import pytest
import torch

from auto_bot_tuner.grpo.config import WITHOUT_CLIP, Loss
from auto_bot_tuner.grpo.loss import (
    group_advantages,
    grpo_loss,
    has_spread,
    kl_term,
    loss_weight,
    overlong_penalty,
    rewards_with_kl,
)

FAMILY = get_args(Loss)
CLIPPED = [loss for loss in FAMILY if loss not in WITHOUT_CLIP]
LENGTHS = [5, 1, 3, 6, 2, 4]
N, R, LONGEST = len(LENGTHS), 6, 10
MASK = torch.arange(R) < torch.tensor(LENGTHS)[:, None]


def random_logprobs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, R) each of the policy (with gradient), the old policy and the reference: some beyond the clip."""
    generator = torch.Generator().manual_seed(0)
    base, moved, other = torch.randn(3, N, R, generator=generator)
    old = (base - 2) * MASK
    return (old + 0.3 * moved * MASK).requires_grad_(), old, (old + 0.5 * other) * MASK


def random_advantages() -> torch.Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(1))


def loss_of(loss: str, rows: slice = slice(None), **settings: Any) -> tuple[torch.Tensor, dict[str, float]]:
    logprobs, old, reference = random_logprobs()
    if loss not in WITHOUT_CLIP:
        settings = {"beta": 0.1, "reference_logprobs": reference[rows]} | settings
    return grpo_loss(
        logprobs[rows], old[rows], random_advantages()[rows], MASK[rows], loss=loss, max_new_tokens=LONGEST, **settings
    )


# ---- advantages ----

REWARDS = torch.tensor([1.0, 0.0, 0.0, 2.0, 5.0, 5.0, 5.0, 6.0])


@pytest.mark.parametrize("loss", ["grpo", "dapo", "gspo"])
def test_advantages_are_deviations_in_units_of_the_groups_own(loss: str) -> None:
    found = group_advantages(REWARDS, 4, loss=loss)
    for group in (slice(0, 4), slice(4, 8)):
        rewards = REWARDS[group].tolist()
        mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)  # n - 1
        assert found[group].tolist() == pytest.approx([(reward - mean) / (deviation + 1e-4) for reward in rewards])


def test_advantages_of_the_members_that_do_not_divide() -> None:
    assert group_advantages(REWARDS, 4, loss="dr_grpo").tolist() == [
        0.25,
        -0.75,
        -0.75,
        1.25,
        -0.25,
        -0.25,
        -0.25,
        0.75,
    ]
    rloo = group_advantages(REWARDS, 4, loss="rloo").tolist()
    assert rloo[0] == pytest.approx(1 - (0 + 0 + 2) / 3) and rloo[7] == pytest.approx(6 - 5)
    reinforce = group_advantages(REWARDS, 4, loss="reinforce").tolist()
    assert reinforce[0] == pytest.approx(1 - (0 + 0 + 2 + 5 + 5 + 5 + 6) / 7)  # the others, whatever their prompts
    scaled = group_advantages(REWARDS, 4, loss="dr_grpo", scale_by_std=True)
    torch.testing.assert_close(scaled, group_advantages(REWARDS, 4, loss="grpo"))
    plain = group_advantages(REWARDS, 4, loss="grpo", scale_by_std=False)
    torch.testing.assert_close(plain, group_advantages(REWARDS, 4, loss="dr_grpo"))


@pytest.mark.parametrize("loss", FAMILY)
def test_a_group_of_equals_teaches_nothing(loss: str) -> None:
    """Exactly: the mean of equal floats differs from them by a rounding, which the deviation would blow up."""
    rewards = torch.tensor([0.1] * 7 if loss != "reinforce" else [1e3 + 0.1] * 7)
    assert group_advantages(rewards, 7, loss=loss).tolist() == [0.0] * 7


def test_spread_is_told_per_group() -> None:
    assert has_spread(torch.tensor([1.0, 1.0, 0.0, 1.0, 0.1, 0.1]), 2).tolist() == [False, True, False]


def test_groups_that_cannot_be_compared_are_refused() -> None:
    for rewards, group_size in ((torch.zeros(5), 2), (torch.zeros(4), 1), (torch.zeros(0), 2)):
        with pytest.raises(ValueError, match="groups of"):
            group_advantages(rewards, group_size)
    with pytest.raises(ValueError, match="ppo"):
        group_advantages(REWARDS, 4, loss="ppo")


def test_the_overlong_penalty_falls_over_the_buffer() -> None:
    lengths = torch.tensor([1, 80, 81, 90, 100, 130])
    assert overlong_penalty(lengths, 100, 20).tolist() == pytest.approx([0.0, 0.0, 0.05, 0.5, 1.0, 1.0])
    nothing = overlong_penalty(lengths, 100, 0)
    assert nothing.tolist() == [0.0] * 6 and nothing.dtype == torch.float32


def test_divergence_costs_beta_a_nat_in_the_reward() -> None:
    logprobs, _, reference = random_logprobs()
    littered = torch.where(MASK, logprobs, 1e9)
    found = rewards_with_kl(torch.ones(N), littered, reference, MASK, 0.1)
    for row, length in enumerate(LENGTHS):
        k1 = (logprobs - reference)[row, :length].sum().item()
        assert found[row].item() == pytest.approx(1 - 0.1 * k1, abs=1e-5)
    assert not found.requires_grad


# ---- losses ----


def by_hand(loss: str, clip_low: float = 0.2, clip_high: float = 0.2) -> float:
    """The member's loss by its definition, token by token, without divergence."""
    logprobs, old, _ = (x.tolist() for x in random_logprobs())
    totals: list[float] = []
    for row, (advantage, length) in enumerate(zip(random_advantages().tolist(), LENGTHS, strict=True)):
        log_ratios = [logprobs[row][t] - old[row][t] for t in range(length)]
        if loss == "gspo":
            log_ratios = [statistics.mean(log_ratios)] * length
        losses = [
            max(-advantage * math.exp(x), -advantage * min(max(math.exp(x), 1 - clip_low), 1 + clip_high))
            for x in log_ratios
        ]
        if loss in WITHOUT_CLIP:
            losses = [-advantage * logprobs[row][t] for t in range(length)]
        totals.append(sum(losses) / {"grpo": length, "gspo": length, "dr_grpo": LONGEST}.get(loss, 1))
    return sum(totals) / (sum(LENGTHS) if loss == "dapo" else N)


@pytest.mark.parametrize("loss", FAMILY)
def test_each_member_is_its_definition(loss: str) -> None:
    found, metrics = loss_of(loss, beta=0.0)
    clips = {"dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4)}.get(loss, (0.2, 0.2))
    assert found.item() == metrics["loss"] == pytest.approx(by_hand(loss, *clips), abs=1e-6)
    low, _ = loss_of(loss, beta=0.0, clip_ratio=0.1, clip_ratio_high=0.3)
    assert low.item() == pytest.approx(by_hand(loss, 0.1, 0.3), abs=1e-6)
    assert 0 < metrics["clip_fraction"] < 1 if loss in ("grpo", "dr_grpo", "dapo") else metrics["ratio_gap"] > 0


def test_members_agree_where_their_differences_vanish() -> None:
    """Responses of one length, that of dr_grpo's constant: a mean of means is the mean."""
    logprobs, old, _ = random_logprobs()
    rows, mask = [3, 3], torch.ones(2, R, dtype=torch.bool)
    values = [
        grpo_loss(
            logprobs[rows] + torch.tensor([[0.1], [-0.2]]),
            old[rows],
            torch.tensor([1.0, -0.5]),
            mask,
            loss=loss,
            clip_ratio_high=0.2,
            max_new_tokens=R,
        )[0].item()
        for loss in ("grpo", "dr_grpo", "dapo")
    ]
    assert values == pytest.approx([values[0]] * 3, abs=1e-6)


def test_gspos_clip_takes_whole_responses() -> None:
    """All tokens of a response, or none, lose their gradient."""
    logprobs, old, _ = random_logprobs()
    loss, metrics = grpo_loss(logprobs, old, torch.ones(N), MASK, loss="gspo", clip_ratio=0.05)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    ratio = ((logprobs - old).sum(dim=1) / MASK.sum(dim=1)).exp()
    is_clipped = ratio > 1.05
    assert 0 < is_clipped.sum() < N
    assert torch.equal(gradient == 0, is_clipped[:, None] | ~MASK)
    assert metrics["clip_fraction"] == pytest.approx(MASK[is_clipped].sum().item() / MASK.sum().item())
    pushed = gradient[~is_clipped][MASK[~is_clipped]]
    lengths = torch.tensor(LENGTHS)[:, None].expand(N, R)[~is_clipped][MASK[~is_clipped]]
    assert (pushed < 0).all()
    torch.testing.assert_close(pushed, -(ratio[:, None].expand(N, R)[~is_clipped][MASK[~is_clipped]]) / lengths / N)


@pytest.mark.parametrize("loss", CLIPPED)
def test_the_first_step_has_no_loss_but_a_gradient(loss: str) -> None:
    """Rule 33, where every response weighs the same: equal lengths here, which all but grpo and gspo need."""
    logprobs, _, _ = random_logprobs()
    advantages = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0]), 6, loss=loss)
    mask = torch.ones_like(MASK)
    value, metrics = grpo_loss(logprobs, logprobs.detach(), advantages, mask, loss=loss, max_new_tokens=R)
    (gradient,) = torch.autograd.grad(value, logprobs)
    assert abs(value.item()) < 1e-6
    torch.testing.assert_close(gradient, -advantages[:, None].expand(N, R) / (N * R))
    assert metrics["clip_fraction"] == metrics["approx_kl"] == metrics["ratio_gap"] == 0 and metrics["ratio"] == 1


@pytest.mark.parametrize("loss", FAMILY)
def test_padding_and_empty_rows_change_nothing(loss: str) -> None:
    logprobs, old, reference = random_logprobs()
    more: dict[str, Any] = {"loss": loss, "max_new_tokens": LONGEST}
    if loss not in WITHOUT_CLIP:
        more |= {"beta": 0.1, "reference_logprobs": torch.where(MASK, reference, 1e9)}
    littered = torch.where(MASK, logprobs, -1e9), torch.where(MASK, old, 1e9)
    found, metrics = grpo_loss(*littered, random_advantages(), MASK, **more)
    expected, expected_metrics = loss_of(loss)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    assert metrics == pytest.approx(expected_metrics, abs=1e-6)
    assert not torch.autograd.grad(found, logprobs)[0][~MASK].any()
    # A response that is left out (mask_unfinished) neither counts nor thins out the others.
    mask = torch.cat([MASK, torch.zeros(2, R, dtype=torch.bool)])
    taller, taller_old = (torch.cat([x, torch.ones(2, R)]) for x in (logprobs, old))
    if loss not in WITHOUT_CLIP:
        more["reference_logprobs"] = torch.cat([reference, torch.zeros(2, R)])
    with_empty, _ = grpo_loss(taller, taller_old, torch.cat([random_advantages(), torch.ones(2)]), mask, **more)
    assert with_empty.item() == pytest.approx(expected.item(), abs=1e-6)
    nothing, _ = grpo_loss(
        logprobs, old, random_advantages(), torch.zeros_like(MASK), loss=loss, max_new_tokens=LONGEST
    )
    assert nothing.item() == 0


@pytest.mark.parametrize("loss", FAMILY)
@pytest.mark.parametrize("cuts", [[1, 1, 1, 1, 1, 1], [2, 4], [5, 1]], ids=str)
def test_cutting_into_micro_batches_changes_neither_loss_nor_gradient(loss: str, cuts: list[int]) -> None:
    logprobs, old, reference = random_logprobs()
    more: dict[str, Any] = {"loss": loss, "max_new_tokens": LONGEST}

    def part(rows: slice) -> torch.Tensor:
        divergence: dict[str, Any] = (
            {} if loss in WITHOUT_CLIP else {"beta": 0.1, "reference_logprobs": reference[rows]}
        )
        found, _ = grpo_loss(
            logprobs[rows],
            old[rows],
            random_advantages()[rows],
            MASK[rows],
            **more,
            **(divergence if loss in CLIPPED else {}),
        )
        return found

    starts = [sum(cuts[:i]) for i in range(len(cuts))]
    parts = [slice(start, start + size) for start, size in zip(starts, cuts, strict=True)]
    weights = [loss_weight(MASK[rows], loss) for rows in parts]
    assert sum(weights) == (sum(LENGTHS) if loss == "dapo" else N)
    cut = sum(
        (weight / sum(weights) * part(rows) for weight, rows in zip(weights, parts, strict=True)), torch.zeros(())
    )
    whole = part(slice(None))
    assert cut.item() == pytest.approx(whole.item(), abs=1e-6)
    torch.testing.assert_close(torch.autograd.grad(cut, logprobs), torch.autograd.grad(whole, logprobs))


def test_advantages_may_differ_by_token() -> None:
    logprobs, old, _ = random_logprobs()
    by_token = random_advantages()[:, None].repeat(1, R)
    for loss in FAMILY:
        found, _ = grpo_loss(logprobs, old, by_token.requires_grad_(), MASK, loss=loss, max_new_tokens=LONGEST)
        assert torch.autograd.grad(found, by_token, allow_unused=True) == (None,)  # a verdict, not a wish
        assert found.item() == pytest.approx(loss_of(loss, beta=0.0)[0].item(), abs=1e-6)


# ---- divergence ----


def test_the_divergence_term_is_weighed_as_the_tokens_are() -> None:
    logprobs, old, reference = random_logprobs()
    k3 = torch.exp(reference - logprobs) - 1 - (reference - logprobs)
    expected = {
        "k2": (logprobs - old).exp() * (logprobs - reference) ** 2 / 2,
        "k3": (logprobs - old).exp() * k3,
        "k3_plain": k3,
    }
    for kind, term in expected.items():
        torch.testing.assert_close(kl_term(logprobs, reference, logprobs - old, MASK, kind), term, atol=1e-6, rtol=1e-5)
        found, metrics = loss_of("dapo", kl_kind=kind)
        assert found.item() == pytest.approx(loss_of("dapo", beta=0.0)[0].item() + 0.1 * term[MASK].mean().item())
        assert metrics["kl_loss"] == pytest.approx(term[MASK].mean().item(), abs=1e-6)
    # gspo's ratio is of whole responses, its divergence of tokens.
    mean = (expected["k3"].sum(dim=1) / MASK.sum(dim=1)).mean().item()
    found, _ = loss_of("gspo")
    assert found.item() == pytest.approx(loss_of("gspo", beta=0.0)[0].item() + 0.1 * mean)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=f"none of {', '.join(FAMILY)}$"):
        loss_of("ppo")
    with pytest.raises(ValueError, match=r"^beta > 0 compares with a reference: give reference_logprobs$"):
        loss_of("grpo", reference_logprobs=None)
    with pytest.raises(ValueError, match="rewards_with_kl"):
        loss_of("rloo", beta=0.1)
    with pytest.raises(ValueError, match="kl_kind 'k1'"):
        loss_of("grpo", kl_kind="k1")
    logprobs, old, _ = random_logprobs()
    with pytest.raises(ValueError, match=r"^dr_grpo divides by a constant length: give max_new_tokens$"):
        grpo_loss(logprobs, old, random_advantages(), MASK, loss="dr_grpo")
