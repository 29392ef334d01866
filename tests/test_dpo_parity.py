"""Our DPO runs and TRL's, on the same pairs in the same order: the same losses, margins and gradients at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset

from auto_bot_tuner.training.batching import epoch_order
from tests.preference_runs import Pairs, dpo_trainer, word_tokenizer
from tests.test_trl_parity import one_epoch
from tests.training_runs import STOP, logged, small_model

SETTINGS: dict[str, Any] = {"learning_rate": 1e-2, "weight_decay": 0.1, "max_grad_norm": 1.0}
PEER_NAMES = {
    "accuracy": "rewards/accuracies",
    "reward_margin": "rewards/margins",
    "chosen_rewards": "rewards/chosen",
    "rejected_rewards": "rewards/rejected",
    "chosen_logprobs": "logps/chosen",
    "rejected_logprobs": "logps/rejected",
}


def as_text(ids: torch.Tensor) -> str:
    """' word5 word7<stop>'."""
    return "".join("<stop>" if token == STOP else f" word{token}" for token in ids.tolist())


def order() -> list[int]:
    """The rows of two epochs as our trainer takes them: 24 each, three steps of eight."""
    return [row for epoch in range(2) for row in epoch_order(24, seed=42, epoch=epoch)]


def trl_log(folder: Path, policy: Any, reference: Any, micro_batch: int, **settings: Any) -> list[dict[str, float]]:
    """What TRL logs at each step, in the order in which our trainer takes the pairs."""
    rows = Pairs(24)
    dataset = [
        {"prompt": as_text(rows.questions[i]), "chosen": as_text(chosen), "rejected": as_text(rejected)}
        for i in order()
        for chosen, rejected in [rows.answers[i]]
    ]
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        args=trl.DPOConfig(**one_epoch(folder, micro_batch), **SETTINGS, **settings),
        train_dataset=Dataset.from_list(dataset),
        processing_class=word_tokenizer(),
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def our_log(folder: Path, policy: Any, rows: Any, **settings: Any) -> list[dict[str, float]]:
    trainer = dpo_trainer(folder, policy, rows=rows, warmup=0, lr_schedule="constant", **SETTINGS, **settings)
    trainer.train()
    return [line for line in logged(folder) if "loss" in line]


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
    ours = our_log(tmp_path / "ours", small_model(lora), Pairs(24), loss=loss, **settings)
    reference = None if lora else small_model()
    theirs = trl_log(tmp_path / "trl", small_model(lora), reference, micro_batch, loss_type=[loss], **settings)
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
    rows = Pairs(24, sides=1)
    rows.scores = [[float(row % 6 > 0)] for row in range(24)]  # mostly good: answers in general get likelier
    ours = our_log(tmp_path / "ours", small_model(), rows, loss="kto", undesirable_weight=0.5)
    dataset = [
        {
            "prompt": as_text(rows.questions[i]),
            "completion": as_text(rows.answers[i][0]),
            "label": rows.scores[i][0] == 1,
        }
        for i in order()
    ]
    trainer = trl.KTOTrainer(
        model=small_model(),
        ref_model=small_model(),
        args=trl.KTOConfig(**one_epoch(tmp_path / "trl", 8), **SETTINGS, undesirable_weight=0.5),
        train_dataset=Dataset.from_list(dataset),
        processing_class=word_tokenizer(),
    )
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(ours) == len(theirs) == 6
    for mine, peer in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(peer["loss"], abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(peer["grad_norm"], rel=1e-3)
        assert mine["reference_point"] == pytest.approx(peer["kl"], abs=1e-4)
        assert mine["chosen_rewards"] == pytest.approx(peer["rewards/chosen"], abs=1e-4)
    assert abs(ours[0]["loss"] - ours[-1]["loss"]) > 1e-2
    assert ours[-1]["reference_point"] > 0.01
