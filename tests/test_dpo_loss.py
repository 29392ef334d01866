"""The DPO family against TRL's numbers, hand-worked ones, finite differences, and worlds small enough to enumerate."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import pytest
import torch

from auto_bot_tuner.dpo import DPOConfig, dpo_loss, kto_loss
from auto_bot_tuner.dpo.loss import initial_loss, log1mexp
from proof.peers import preferences

PAIRED = ["sigmoid", "conservative", "robust", "ipo", "hinge", "simpo", "orpo"]
WITH_REFERENCE = PAIRED[:5]
B, T = 6, 9


def random_pairs(dtype: torch.dtype = torch.float32, length: int | None = None) -> tuple[torch.Tensor, ...]:
    """Token log-probabilities (4, B, T) of policy chosen and rejected, reference chosen and rejected; lengths (2, B).

    `length`: of all answers, which otherwise have different ones.
    """
    generator = torch.Generator().manual_seed(0)
    logprobs = torch.log(torch.rand(4, B, T, generator=generator, dtype=dtype) * 0.98 + 0.01)
    lengths = torch.randint(1, T + 1, (2, B), generator=generator) if length is None else torch.full((2, B), length)
    mask = torch.arange(T) < lengths[[0, 1, 0, 1]][..., None]  # the answers begin at once and end at their lengths
    return logprobs * mask, lengths


def summed(
    dtype: torch.dtype = torch.float32, length: int | None = None
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """The four sums (B,) and the lengths as `dpo_loss` takes them."""
    logprobs, lengths = random_pairs(dtype, length)
    return list(logprobs.sum(dim=-1)), {"chosen_lengths": lengths[0], "rejected_lengths": lengths[1]}


def case(length: int | None = None, **given_settings: float) -> dict[str, Any]:
    """What the peers take: the four sums by name, the lengths, and settings."""
    sums, lengths = summed(length=length)
    names = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    return dict(zip(names, sums, strict=True)) | lengths | given_settings


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("loss_type", ["sigmoid", "robust", "ipo", "hinge"])
def test_equals_trls_dpo_trainer(loss_type: str, beta: float) -> None:
    label_smoothing = 0.2 if loss_type == "robust" else 0.0
    peer, peer_metrics = preferences.dpo(case(beta=beta, label_smoothing=label_smoothing), (loss_type,))
    sums, lengths = summed()
    loss, metrics = dpo_loss(*sums, beta, loss_type, label_smoothing=label_smoothing, **lengths)
    assert loss.item() == pytest.approx(peer.item(), abs=1e-6, rel=1e-6)
    assert metrics["loss"] == pytest.approx(loss.item())
    if loss_type != "ipo":  # of IPO, TRL logs rewards by sums, which its loss does not compare
        for mine, theirs in {
            "accuracy": "rewards/accuracies",
            "reward_margin": "rewards/margins",
            "chosen_rewards": "rewards/chosen",
            "rejected_rewards": "rewards/rejected",
        }.items():
            assert metrics[mine] == pytest.approx(peer_metrics[theirs], abs=1e-6), mine


def test_sft_term_is_trls_where_answers_are_equally_long() -> None:
    """TRL takes the mean over all tokens of the batch, we over answers: the same where these are of one length."""
    peer, _ = preferences.dpo(case(length=5, beta=0.1), ("sigmoid", "sft"), (1.0, 0.7))
    sums, lengths = summed(length=5)
    loss, _ = dpo_loss(*sums, 0.1, sft_weight=0.7, **lengths)
    assert loss.item() == pytest.approx(peer.item(), abs=1e-6)


def test_conservative_and_simpo_equal_trls_cpo_trainer() -> None:
    sums, lengths = summed()
    loss, _ = dpo_loss(*sums, 0.3, "conservative", label_smoothing=0.2)
    peer = preferences.conservative(case(beta=0.3, label_smoothing=0.2))
    assert loss.item() == pytest.approx(peer.item(), abs=1e-6)

    peer, chosen_rewards = preferences.simpo(case(beta=2.0, simpo_gamma=0.5))
    loss, metrics = dpo_loss(*sums[:2], None, None, 2.0, "simpo", simpo_gamma=0.5, **lengths)
    assert loss.item() == pytest.approx(peer.item(), abs=1e-6)
    assert metrics["chosen_rewards"] == pytest.approx(chosen_rewards.mean().item(), abs=1e-6)


def test_orpo_equals_trls_odds_ratio_and_sft() -> None:
    sums, lengths = summed()
    peer, chosen_rewards = preferences.orpo(case(beta=0.1))
    loss, metrics = dpo_loss(*sums[:2], None, None, 0.1, "orpo", **lengths)
    assert loss.item() == pytest.approx(peer.item(), abs=1e-6)
    assert metrics["chosen_rewards"] == pytest.approx(chosen_rewards.mean().item(), abs=1e-6)


@pytest.mark.parametrize("drift", [0.7, -0.7])
def test_kto_equals_trls_kto_trainer(drift: float) -> None:
    (policy, _, reference, _), _ = summed()
    is_good, point = torch.tensor([True, False, False, True, True, False]), torch.tensor(drift)
    answers = {"policy": policy, "reference": reference, "is_desirable": is_good, "reference_point": point}
    weights = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.3}
    peer, peer_metrics = preferences.kto(answers | weights)
    loss, metrics = kto_loss(**answers, **weights)
    assert loss.item() == pytest.approx(peer.item(), abs=1e-6)
    assert metrics["chosen_rewards"] == pytest.approx(peer_metrics["rewards/chosen"], abs=1e-6)
    assert metrics["rejected_rewards"] == pytest.approx(peer_metrics["rewards/rejected"], abs=1e-6)


# ---- values that are known without a peer ----


@pytest.mark.parametrize("beta", [0.05, 0.5])
@pytest.mark.parametrize(
    ("loss_type", "known"),
    [("sigmoid", 0.6931472), ("conservative", 0.6931472), ("robust", 0.6931472), ("hinge", 1.0), ("ipo", None)],
)
def test_loss_where_policy_and_reference_agree(loss_type: str, known: float | None, beta: float) -> None:
    (chosen, rejected, *_), lengths = summed()
    smoothing = 0.1 if loss_type in ("conservative", "robust") else 0.0
    loss, metrics = dpo_loss(chosen, rejected, chosen, rejected, beta, loss_type, label_smoothing=smoothing, **lengths)
    expected = 1 / (4 * beta * beta) if known is None else known
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert initial_loss(loss_type, beta) == pytest.approx(expected)
    assert metrics["reward_margin"] == 0
    assert metrics["accuracy"] == 0.5


def test_hand_worked_numbers() -> None:
    """beta 0.5, chosen rose by 1.2 nats, rejected fell by 0.8: h = 2, beta h = 1."""
    sides = [torch.tensor([value]) for value in (-8.8, -10.8, -10.0, -10.0)]
    four = torch.tensor([4])
    by_hand = {
        "sigmoid": 0.3132617,  # ln(1 + e^-1)
        "conservative": 0.9 * 0.3132617 + 0.1 * 1.3132617,
        "robust": (0.9 * 0.3132617 - 0.1 * 1.3132617) / 0.8,
        "hinge": 0.0,
        "ipo": (0.5 - 1.0) ** 2,  # token means: h = 2 / 4; target 1 / (2 beta) = 1
        "simpo": 0.6931472,  # token means -2.2 and -2.7: beta h = 0.25 = gamma
    }
    for loss_type, expected in by_hand.items():
        loss, metrics = dpo_loss(
            *sides,
            0.5,
            loss_type,
            label_smoothing=0.1,
            simpo_gamma=0.25,
            chosen_lengths=four,
            rejected_lengths=four,
        )
        assert loss.item() == pytest.approx(expected, abs=1e-6), loss_type
        if loss_type == "sigmoid":
            assert metrics == pytest.approx(
                {
                    "loss": 0.3132617,
                    "accuracy": 1.0,
                    "reward_margin": 1.0,
                    "chosen_rewards": 0.6,
                    "rejected_rewards": -0.4,
                },
                abs=1e-6,
            )
    # ORPO: mean probabilities 0.5 and 0.2, odds 1 and 1/4; SFT part ln 2, -log sigmoid(ln 4) = ln 1.25.
    orpo, _ = dpo_loss(
        torch.tensor([2 * math.log(0.5)]),
        torch.tensor([3 * math.log(0.2)]),
        None,
        None,
        0.5,
        "orpo",
        chosen_lengths=torch.tensor([2]),
        rejected_lengths=torch.tensor([3]),
    )
    assert orpo.item() == pytest.approx(math.log(2) + 0.5 * math.log(1.25), abs=1e-6)


def test_limiting_cases() -> None:
    sums, lengths = summed()
    plain, _ = dpo_loss(*sums, 0.1)
    for loss_type in ("conservative", "robust"):
        assert dpo_loss(*sums, 0.1, loss_type, label_smoothing=0.0)[0].item() == pytest.approx(plain.item())
    # beta = 0 leaves of ORPO the SFT part, and so does an SFT weight beside a loss of beta 0 but for its ln 2.
    sft = -(sums[0] / lengths["chosen_lengths"]).mean().item()
    assert dpo_loss(*sums[:2], None, None, 0.0, "orpo", **lengths)[0].item() == pytest.approx(sft)
    assert dpo_loss(*sums, 0.0, sft_weight=2.0, **lengths)[0].item() == pytest.approx(math.log(2) + 2 * sft)
    # A reference that finds every token equally likely is no reference: SimPO is DPO by token means then.
    uniform = [length * -math.log(50.0) for length in lengths.values()]
    means = [side / length for side, length in zip([*sums[:2], *uniform], 2 * list(lengths.values()), strict=True)]
    simpo, _ = dpo_loss(*sums[:2], None, None, 2.0, "simpo", simpo_gamma=0.0, **lengths)
    assert simpo.item() == pytest.approx(dpo_loss(*means, 2.0)[0].item(), abs=1e-6)


@pytest.mark.parametrize("loss_type", PAIRED)
def test_gradients_by_finite_differences(loss_type: str) -> None:
    sums, lengths = summed(dtype=torch.float64)

    def loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        references = sums[2:] if loss_type in WITH_REFERENCE else (None, None)
        return dpo_loss(chosen, rejected, *references, 0.3, loss_type, label_smoothing=0.1, sft_weight=0.5, **lengths)[
            0
        ]

    assert torch.autograd.gradcheck(loss, [side.clone().requires_grad_() for side in sums[:2]])


def test_kto_gradient_and_its_detached_reference_point() -> None:
    (policy, _, reference, _), _ = summed(dtype=torch.float64)
    is_good = torch.tensor([True, False, True, True, False, False])
    point = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda p: kto_loss(p, reference, is_good, point.detach(), 0.3)[0], [policy.clone().requires_grad_()]
    )
    kto_loss(policy.clone().requires_grad_(), reference, is_good, point, 0.3)[0].backward()
    assert point.grad is None
    below = [kto_loss(policy, reference, is_good, torch.tensor(value), 0.3)[0].item() for value in (0.0, -3.0)]
    assert below[0] == below[1]  # clamped at zero


def test_kto_by_hand() -> None:
    """beta 0.5, z = 1: a good answer up by 3 nats, sigma(0.5 * 3 - 0.5) = sigma(1); a bad one up by 1: sigma(0)."""
    loss, metrics = kto_loss(
        torch.tensor([-1.0, -4.0]),
        torch.tensor([-4.0, -5.0]),
        torch.tensor([True, False]),
        torch.tensor(1.0),
        0.5,
        desirable_weight=2.0,
    )
    assert loss.item() == pytest.approx((2 * (1 - 0.7310586) + 0.5) / 2, abs=1e-6)
    assert metrics == pytest.approx(
        {
            "loss": loss.item(),
            "accuracy": 0.75,  # one right, one a tie
            "reward_margin": 1.0,
            "chosen_rewards": 1.5,
            "rejected_rewards": 0.5,
            "desirable": 0.5,
        }
    )


def test_robust_loss_of_flipped_labels_is_in_expectation_the_clean_loss() -> None:
    sums, _ = summed()
    chosen, rejected, reference_chosen, reference_rejected = sums
    clean, _ = dpo_loss(*sums, 0.4)
    flip = 0.3
    as_given, _ = dpo_loss(*sums, 0.4, "robust", label_smoothing=flip)
    flipped, _ = dpo_loss(rejected, chosen, reference_rejected, reference_chosen, 0.4, "robust", label_smoothing=flip)
    assert ((1 - flip) * as_given + flip * flipped).item() == pytest.approx(clean.item(), abs=1e-6)


def test_the_optimum_recovers_a_known_bradley_terry_reward() -> None:
    """Two tokens, answers of two of them: all four answers and all pairs are enumerated, the logits trained."""
    beta = 0.5
    reward = torch.tensor([0.0, 1.1, -0.6, 0.4], dtype=torch.float64)  # of aa, ab, ba, bb
    generator = torch.Generator().manual_seed(1)

    def answers(logits: torch.Tensor) -> torch.Tensor:
        """Logits (3,) of b: first, after a, after b → log-probabilities (4,) of aa, ab, ba, bb."""
        a, b = torch.nn.functional.logsigmoid(-logits), torch.nn.functional.logsigmoid(logits)
        return torch.stack([a[0] + a[1], a[0] + b[1], b[0] + a[2], b[0] + b[2]])

    reference = answers(torch.randn(3, generator=generator, dtype=torch.float64))
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-16)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]

    def expected_loss() -> torch.Tensor:
        policy = answers(logits)
        return torch.stack(
            [
                torch.sigmoid(reward[i] - reward[j])  # Bradley-Terry: how often i is preferred to j
                * dpo_loss(policy[i : i + 1], policy[j : j + 1], reference[i : i + 1], reference[j : j + 1], beta)[0]
                for i, j in pairs
            ]
        ).sum()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = expected_loss()
        loss.backward()
        return loss

    optimizer.step(closure)
    policy = answers(logits.detach())
    implicit = beta * (policy - reference)
    assert torch.allclose(implicit - implicit[0], reward - reward[0], atol=1e-5)
    closed_form = torch.log_softmax(reference + reward / beta, dim=0)  # eq. 4 of the paper
    assert torch.allclose(policy, closed_form, atol=1e-5)


def test_orpo_bears_an_answer_of_probability_one() -> None:
    chosen = torch.zeros(2, requires_grad=True)
    lengths = torch.tensor([3, 3])
    loss, _ = dpo_loss(
        chosen, torch.tensor([-4.0, 0.0]), None, None, 0.1, "orpo", chosen_lengths=lengths, rejected_lengths=lengths
    )
    loss.backward()
    assert loss.isfinite() and chosen.grad.isfinite().all()


def test_what_is_missing_is_said() -> None:
    sums, lengths = summed()
    with pytest.raises(ValueError, match=f"none of {', '.join([*PAIRED, 'kto'])} "):
        dpo_loss(*sums, 0.1, "dpo")
    with pytest.raises(ValueError, match="kto_loss"):
        dpo_loss(*sums, 0.1, "kto")
    for references in ((None, None), (sums[2], None), (None, sums[3])):  # half a reference is none
        with pytest.raises(ValueError, match="ipo compares with a reference"):
            dpo_loss(*sums[:2], *references, 0.1, "ipo", **lengths)
    for loss_type in ("ipo", "simpo", "orpo"):
        with pytest.raises(ValueError, match=r"^per-token means need .*lengths, the number of tokens summed$"):
            dpo_loss(*sums, 0.1, loss_type)


def test_what_is_not_given_is_as_the_settings_have_it() -> None:
    sums, lengths = summed()
    config = DPOConfig()
    noisy = {"label_smoothing": config.label_smoothing}
    assert torch.equal(dpo_loss(*sums)[0], dpo_loss(*sums, config.beta, "sigmoid", **noisy)[0])
    assert torch.equal(dpo_loss(*sums, 0.2, "robust")[0], dpo_loss(*sums, 0.2, "robust", **noisy)[0])
    simpo = dpo_loss(*sums, 2.0, "simpo", simpo_gamma=config.simpo_gamma, **lengths)[0]
    assert torch.equal(dpo_loss(*sums, 2.0, "simpo", **lengths)[0], simpo)
    answers = sums[0], sums[2], torch.arange(B) < 3, torch.tensor(0.3)
    weights = {"desirable_weight": config.desirable_weight, "undesirable_weight": config.undesirable_weight}
    assert torch.equal(kto_loss(*answers)[0], kto_loss(*answers, config.beta, **weights)[0])


def test_log1mexp_keeps_its_digits_from_one_end_to_the_other() -> None:
    """log(1 - e^x) in float32 against 200 digits."""
    numbers = [-1e-7, -3e-4, -0.1, -0.5, -0.69314, -0.6932, -0.9, -1.2, -4.0, -20.0, -80.0]
    x = torch.tensor(numbers, requires_grad=True)
    found = log1mexp(x)
    with localcontext() as context:
        context.prec = 200
        exact = [(1 - Decimal(value).exp()).ln() for value in x.tolist()]
        slopes = [-Decimal(value).exp() / (1 - Decimal(value).exp()) for value in x.tolist()]
    assert found.tolist() == pytest.approx([float(value) for value in exact], rel=5e-7, abs=0)
    found.sum().backward()
    assert x.grad.tolist() == pytest.approx([float(slope) for slope in slopes], rel=2e-6, abs=0)
