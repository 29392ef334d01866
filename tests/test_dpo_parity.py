"""Our DPO runs and TRL's, on the same pairs in the same order: the same losses, margins and gradients at every step."""

from __future__ import annotations

from pathlib import Path

import pytest

from proof.peers.training import our_dpo, single_answers, trl_dpo, trl_kto
from tests.preference_runs import Pairs
from tests.training_runs import small_model

PEER_NAMES = {
    "accuracy": "rewards/accuracies",
    "reward_margin": "rewards/margins",
    "chosen_rewards": "rewards/chosen",
    "rejected_rewards": "rewards/rejected",
    "chosen_logprobs": "logps/chosen",
    "rejected_logprobs": "logps/rejected",
}


@pytest.mark.parametrize(
    ("loss", "settings", "micro_batch", "lora"),
    [
        ("sigmoid", {"beta": 0.1}, 8, False),
        ("sigmoid", {"beta": 0.1}, 2, False),
        ("sigmoid", {"beta": 0.1}, 8, True),
        ("ipo", {"beta": 0.5}, 8, False),
    ],
    ids=["sigmoid", "sigmoid-2x4", "sigmoid-lora", "ipo"],
)
def test_losses_margins_and_gradient_norms_equal_trls_at_every_step(
    loss: str,
    settings: dict[str, float],
    micro_batch: int,
    lora: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry then
    ours = our_dpo(tmp_path / "ours", small_model(lora), Pairs(24), loss=loss, **settings)
    reference = None if lora else small_model()
    theirs = trl_dpo(tmp_path / "trl", small_model(lora), reference, micro_batch, loss_type=[loss], **settings)
    assert len(ours) == len(theirs) == 6
    for mine, peer in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(peer["loss"], abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(peer["grad_norm"], rel=1e-3)
        if micro_batch == 8 and loss != "ipo" and mine["step"] > 1:  # TRL calls a tie wrong, and IPO's rewards are sums
            for name, peer_name in PEER_NAMES.items():
                assert mine[name] == pytest.approx(peer[peer_name], abs=1e-4, rel=1e-5), name
    # Training moved the loss by much more than the tolerance.
    assert abs(ours[0]["loss"] - ours[-1]["loss"]) > 1e-2


def test_kto_equals_trls_kto_trainer_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference point, too: in the same mismatched pairs, TRL's of a batch and ours of a step."""
    monkeypatch.setenv("CI", "1")
    rows = single_answers()
    ours = our_dpo(tmp_path / "ours", small_model(), rows, loss="kto", undesirable_weight=0.5)
    theirs = trl_kto(tmp_path / "trl", rows, undesirable_weight=0.5)
    assert len(ours) == len(theirs) == 6
    for mine, peer in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(peer["loss"], abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(peer["grad_norm"], rel=1e-3)
        assert mine["reference_point"] == pytest.approx(peer["kl"], abs=1e-4)
        assert mine["chosen_rewards"] == pytest.approx(peer["rewards/chosen"], abs=1e-4)
    assert abs(ours[0]["loss"] - ours[-1]["loss"]) > 1e-2
    assert ours[-1]["reference_point"] > 0.01
