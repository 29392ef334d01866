"""Our reward loss and training beside TRL's `RewardTrainer`: the same values, step by step.

On a Llama model with a pad token of its own: with pad == eos TRL, as transformers, steps over the end token.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.rlhf import RewardModel, ranking_loss
from proof.peers import rewards
from proof.peers.training import PAD, our_reward, trl_reward
from tests.reward_runs import random_groups, small_reward_model


@pytest.mark.parametrize("centering", [None, 0.01])
@pytest.mark.parametrize("with_margin", [False, True])
def test_ranking_loss_is_trls(centering: float | None, with_margin: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    chosen, rejected, margin = 2 * torch.randn(3, 33, generator=generator)
    margin = margin.abs() if with_margin else None
    theirs, metrics = rewards.ranking(chosen, rejected, margin, centering)
    loss, ours = ranking_loss(chosen, rejected, 0.0 if margin is None else margin, centering=centering or 0.0)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert ours["accuracy"] == pytest.approx(metrics["accuracy"][0], abs=1e-6)
    assert ours["reward_margin"] == pytest.approx(metrics["margin"][0], abs=1e-6)
    assert (ours["chosen_rewards"] + ours["rejected_rewards"]) / 2 == pytest.approx(metrics["mean_reward"][0], abs=1e-6)


@pytest.mark.parametrize("case", ["8x1", "2x4", "centred", "margin", "8x1-lora"])
def test_losses_and_gradient_norms_equal_trls_at_every_step(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry then
    # A last step of five is right only whole: TRL's three micro-batches of 2, 2 and 1 would weigh the same.
    groups = random_groups(32 if case == "2x4" else 37, words=PAD)
    model = small_reward_model(lora=case == "8x1-lora")
    theirs_model = copy.deepcopy(model.model)  # head included
    settings: dict[str, Any] = {"centred": {"centering": 0.05}, "margin": {"use_margin": True}}.get(case, {})
    ours = our_reward(tmp_path / "ours", model, groups, **settings)
    if "centering" in settings:
        settings = {"center_rewards_coefficient": settings["centering"]}
    theirs = trl_reward(tmp_path / "trl", theirs_model, groups, 2 if case == "2x4" else 8, **settings)
    assert len(ours) == len(theirs) == (4 if case == "2x4" else 5)  # 37 pairs: four steps of eight, a last one of five
    for mine, peer in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(peer["loss"], abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(peer["grad_norm"], rel=1e-3)
        if case != "2x4":  # of several micro-batches TRL logs the mean of means
            assert mine["accuracy"] == pytest.approx(peer["accuracy"], abs=1e-6)
            assert mine["reward_margin"] == pytest.approx(peer["margin"], abs=1e-4)
    # Training moved the loss by much more than the tolerance: equal numbers of an untrained model would prove little.
    assert max(line["loss"] for line in ours) - min(line["loss"] for line in ours) > 1e-2


def test_with_pad_equal_to_eos_trls_score_does_not_see_the_end() -> None:
    """Why the comparison above needs a pad token of its own: the trap, exhibited on the model that both train."""
    model: RewardModel = small_reward_model()
    ended, not_ended = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[5, 6, 7]])
    model.model.config.pad_token_id = 0  # the end token's
    with torch.no_grad():
        assert model.model(input_ids=ended).logits.item() == pytest.approx(
            model.model(input_ids=not_ended).logits.item(), abs=1e-6
        )
        assert abs(model(ended).item() - model(not_ended).item()) > 1e-3
