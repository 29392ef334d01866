"""Our GRPO losses and those of TRL's `GRPOTrainer`, on the same tensors: values, gradients and clip fractions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from auto_bot_tuner.grpo.loss import grpo_loss, loss_weight
from proof.peers import groups

LENGTHS = [7, 1, 4, 9, 2, 5, 9, 3]
N, R, LONGEST = len(LENGTHS), 9, 12
MASK = torch.arange(R) < torch.tensor(LENGTHS)[:, None]


def random_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base, moved, other = torch.randn(3, N, R, generator=generator)
    old = base - 2
    return {
        "logprobs": (old + 0.3 * moved).requires_grad_(),  # some beyond the clip, on either side
        "old_logprobs": old,
        "reference_logprobs": old + 0.5 * other,
        "advantages": torch.randn(N, generator=generator),
    }


def trls_loss(tensors: dict[str, torch.Tensor], rows: slice = slice(None), **settings: Any) -> Any:
    case = {**{name: x[rows] for name, x in tensors.items()}, "mask": MASK[rows], "longest": LONGEST}
    return groups.grpo(case, settings.pop("loss_type"), tokens_in_step=MASK.sum(), **settings)


def our_loss(tensors: dict[str, torch.Tensor], rows: slice = slice(None), **settings: Any) -> Any:
    part: dict[str, Any] = {name: x[rows] for name, x in tensors.items()}
    return grpo_loss(**part, mask=MASK[rows], **settings)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("grpo", {"loss_type": "grpo"}),
    "dr_grpo": ("dr_grpo", {"loss_type": "dr_grpo"}),
    "dapo": ("dapo", {"loss_type": "dapo", "clip": (0.2, 0.28)}),
    "bnpo": ("dapo", {"loss_type": "bnpo", "clip": (0.2, 0.28)}),  # one batch's token mean: dapo, where it is whole
    "gspo": ("gspo", {"loss_type": "grpo", "level": "sequence", "clip": (0.05, 0.08)}),
}


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_clip_fractions_equal_trls(case: str, beta: float) -> None:
    loss, peer = CASES[case]
    tensors = random_tensors()
    low, high = peer.get("clip", (0.2, 0.2))
    settings = {"clip_ratio": low} | ({"clip_ratio_high": high} if case == "gspo" else {})  # dapo's 0.28 is its own
    ours, metrics = our_loss(tensors, loss=loss, beta=beta, kl_kind="k3_plain", max_new_tokens=LONGEST, **settings)
    theirs, peer_metrics = trls_loss(tensors, beta=beta, **peer)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    gradients = [torch.autograd.grad(each, tensors["logprobs"])[0] for each in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)
    if beta:
        assert metrics["kl_loss"] == pytest.approx(peer_metrics["kl"][0], abs=1e-6)
    if case == "gspo":  # of responses there, of tokens here
        assert peer_metrics["clip_ratio/region_mean"][0] > 0 and metrics["clip_fraction"] > 0
    else:
        assert metrics["clip_fraction"] == pytest.approx(peer_metrics["clip_ratio/region_mean"][0], abs=1e-6)
        assert 0.1 < metrics["clip_fraction"] < 0.9


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo"])
def test_divergence_times_the_ratio_equals_trls_bias_correction(loss: str) -> None:
    tensors = random_tensors()
    ours, _ = our_loss(tensors, loss=loss, beta=0.5, kl_kind="k3", clip_ratio_high=0.2, max_new_tokens=LONGEST)
    theirs, _ = trls_loss(tensors, loss_type=loss, beta=0.5, bias_correction=True)
    plain, _ = trls_loss(tensors, loss_type=loss, beta=0.5)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert abs(theirs.item() - plain.item()) > 1e-4
    gradients = [torch.autograd.grad(each, tensors["logprobs"])[0] for each in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo"])
def test_accumulated_over_micro_batches_it_is_still_trls(loss: str) -> None:
    """TRL adds up what `_compute_loss` gives for each of two micro-batches; we weigh means by `loss_weight`."""
    tensors, halves = random_tensors(), (slice(0, 4), slice(4, 8))
    theirs = sum(trls_loss(tensors, rows, loss_type=loss, beta=0.1, accumulation=2)[0].item() for rows in halves)
    weights = [loss_weight(MASK[rows], loss) for rows in halves]
    settings: dict[str, Any] = {"loss": loss, "beta": 0.1, "kl_kind": "k3_plain", "clip_ratio_high": 0.2}
    ours = [our_loss(tensors, rows, **settings, max_new_tokens=LONGEST)[0].item() for rows in halves]
    assert sum(w * x for w, x in zip(weights, ours, strict=True)) / sum(weights) == pytest.approx(theirs, abs=1e-6)
