"""Our trainer and TRL's, the peer that most people know, train the same: step by step, loss by loss.

On a Llama-type model: for GPT-2 TRL's own loss is off by a factor of (N - B) / N, as it counts labels before shifting
them. This file never skips: `trl` is a dependency of the tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.loss.loss_utils import ForCausalLMLoss

from auto_bot_tuner.sft import sft_loss
from auto_bot_tuner.training.logprobs import SummedNLL
from proof.peers.language import fused_head, sft
from proof.peers.training import our_sft, trl_sft
from tests.training_runs import VOCABULARY


@pytest.mark.parametrize(("micro_batch", "lora"), [(8, False), (2, False), (8, True)], ids=["8x1", "2x4", "8x1-lora"])
def test_losses_and_gradient_norms_equal_trls_at_every_step(
    micro_batch: int, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry then
    ours = our_sft(tmp_path / "ours", lora)
    theirs = trl_sft(tmp_path / "trl", micro_batch, lora)
    assert len(ours) == len(theirs) == 5  # 37 rows: four steps of eight, and a last one of five
    for mine, peer in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(peer["loss"], abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(peer["grad_norm"], rel=1e-3)
        if micro_batch == 8:  # of several micro-batches TRL logs the mean of means, ours weighs them by their tokens
            assert mine["accuracy"] == pytest.approx(peer["mean_token_accuracy"], abs=1e-6)
        assert mine["learning_rate"] == pytest.approx(peer["learning_rate"])
    # Training moved the loss by much more than the tolerance: equal numbers of an untrained model would prove little.
    assert abs(ours[0]["loss"] - ours[3]["loss"]) > 1e-3


def test_sft_loss_is_the_cross_entropy_of_transformers_and_of_trl() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(4, 17, VOCABULARY, generator=generator)  # (B, T, V)
    labels = torch.randint(VOCABULARY, (4, 17), generator=generator)
    labels[torch.rand(4, 17, generator=generator) < 0.5] = -100
    loss, _ = sft_loss(logits, labels)
    assert loss.item() == pytest.approx(ForCausalLMLoss(logits, labels, VOCABULARY).item(), abs=1e-6)
    assert loss.item() == pytest.approx(sft({"logits": logits, "labels": labels}).item(), abs=1e-6)


def test_the_chunked_sum_and_its_gradients_are_those_of_trls_fused_head() -> None:
    generator = torch.Generator().manual_seed(4)
    targets = torch.randint(VOCABULARY, (700,), generator=generator)  # more than one of our chunks, a few of TRL's
    start = torch.randn(700, 16, generator=generator), torch.randn(VOCABULARY, 16, generator=generator)
    ours = [tensor.clone().requires_grad_() for tensor in start]
    theirs = [tensor.clone().requires_grad_() for tensor in start]
    total, correct = SummedNLL.apply(*ours, targets, True)
    total.backward()
    logprobs, _, is_first = fused_head({"hidden": theirs[0], "weight": theirs[1], "targets": targets})
    (-logprobs.sum()).backward()
    assert total.item() == pytest.approx(-logprobs.sum().item(), rel=1e-6)
    assert correct == is_first.sum()
    for mine, peer in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.grad, peer.grad, atol=1e-5)
