"""Our trainer and TRL's, the peer that most people know, train the same: step by step, loss by loss.

On a Llama-type model: for GPT-2 TRL's own loss is off by a factor of (N - B) / N, as it counts labels before shifting
them. This file never skips: `trl` is a dependency of the tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.loss.loss_utils import ForCausalLMLoss
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer.utils import selective_log_softmax

from auto_bot_tuner.sft import sft_loss
from auto_bot_tuner.training.batching import epoch_order
from auto_bot_tuner.training.logprobs import SummedNLL
from tests.training_runs import STOP, VOCABULARY, logged, random_rows, small_model, small_trainer

SETTINGS = {"learning_rate": 1e-2, "weight_decay": 0.1, "max_grad_norm": 1.0}


def small_tokenizer() -> PreTrainedTokenizerFast:
    """TRL writes the tokenizer's pad id into the model and pads with it, so it must be one of the 97 words."""
    words = {"<stop>": STOP} | {f"word{i}": i for i in range(1, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<stop>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<stop>", pad_token="<stop>")


def one_epoch(folder: Path, micro_batch: int) -> dict[str, Any]:
    """TRL's settings for steps of 8 rows in the given order, each of them logged and nothing saved."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "num_train_epochs": 1,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": 8 // micro_batch,
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def trl_log(folder: Path, micro_batch: int, lora: bool) -> list[dict[str, float]]:
    """What TRL logs at each step of one epoch over the same rows, in the order in which our trainer takes them."""
    rows = random_rows()
    order = epoch_order(len(rows), seed=42, epoch=0)
    dataset = Dataset.from_list([{name: rows[i][name].tolist() for name in ("input_ids", "labels")} for i in order])
    config = trl.SFTConfig(
        **one_epoch(folder, micro_batch),
        **SETTINGS,
    )
    trainer = trl.SFTTrainer(
        model=small_model(lora), args=config, train_dataset=dataset, processing_class=small_tokenizer()
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(("micro_batch", "lora"), [(8, False), (2, False), (8, True)], ids=["8x1", "2x4", "8x1-lora"])
def test_losses_and_gradient_norms_equal_trls_at_every_step(
    micro_batch: int, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry then
    small_trainer(
        tmp_path / "ours", lora=lora, batch_size=8, num_epochs=1, warmup=0, lr_schedule="constant", **SETTINGS
    ).train()
    ours = [line for line in logged(tmp_path / "ours") if "loss" in line]
    theirs = trl_log(tmp_path / "trl", micro_batch, lora)
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
    trained = labels[:, 1:] != -100
    peer = selective_log_softmax(logits[:, :-1], labels[:, 1:].clamp(min=0))
    assert loss.item() == pytest.approx(-peer[trained].mean().item(), abs=1e-6)


def test_the_chunked_sum_and_its_gradients_are_those_of_trls_fused_head() -> None:
    generator = torch.Generator().manual_seed(4)
    targets = torch.randint(VOCABULARY, (700,), generator=generator)  # more than one of our chunks, a few of TRL's
    start = torch.randn(700, 16, generator=generator), torch.randn(VOCABULARY, 16, generator=generator)
    ours = [tensor.clone().requires_grad_() for tensor in start]
    theirs = [tensor.clone().requires_grad_() for tensor in start]
    total, correct = SummedNLL.apply(*ours, targets, True)
    total.backward()
    logprobs, _, _, _, is_top1 = ChunkedLogProbFunction.apply(
        theirs[0], theirs[1], None, targets, 1.0, 32, None, 1.0, ("is_top1",)
    )
    (-logprobs.sum()).backward()
    assert total.item() == pytest.approx(-logprobs.sum().item(), rel=1e-6)
    assert correct == is_top1.sum()
    for mine, peer in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.grad, peer.grad, atol=1e-5)
