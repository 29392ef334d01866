"""Supervised fine-tuning: show the model good answers and raise their probability.

The loop it inherits (`training/loop.py`), in ten lines:

    for micro_batches in self.batches():                       # the rows of one optimiser step, cut by a token budget
        total_weight = sum(batch.weight for batch in micro_batches)           # trained tokens, over all processes
        for batch in micro_batches:
            loss, metrics = self.compute_loss(batch)                                           # what SFT says, below
            (loss * batch.weight / total_weight).backward()      # weighted by tokens: the cut does not change the sum
        clip_grad_norm(parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        # then, by the same clock: log, evaluate, sample, save, stop where asked
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from auto_bot_tuner.sft.config import SFTConfig
from auto_bot_tuner.sft.loss import perplexity
from auto_bot_tuner.training.batching import Batch
from auto_bot_tuner.training.events import Callback
from auto_bot_tuner.training.logprobs import causal_model
from auto_bot_tuner.training.loop import Trainer

__all__ = ["SFTConfig", "SFTTrainer"]


class SFTTrainer(Trainer):
    """Trains a model on `InstructionDataset` rows with `sft_loss`."""

    Config = SFTConfig
    config: SFTConfig

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        train_dataset: Any,
        eval_dataset: Any = None,
        config: SFTConfig | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        """As `Trainer`. `train()` returns the summary, `evaluate()` the metrics of the evaluation rows."""
        super().__init__(model, tokenizer, train_dataset, eval_dataset, config, callbacks)
        if self.config.neftune_alpha:
            causal_model(model).get_input_embeddings().register_forward_hook(self.add_embedding_noise)

    def compute_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """`sft_loss` of a micro-batch, computed without ever holding all of its logits (`training/logprobs.py`)."""
        summed_nll, correct = self.module(batch["input_ids"], batch["labels"], batch["lengths"])
        # The loop multiplies by the weight again. A process without rows in this step has weight 0, not 0/0.
        trained_tokens = max(batch.weight, 1)
        return summed_nll / trained_tokens, {"accuracy": correct / trained_tokens}

    def describe(self, means: dict[str, float]) -> dict[str, float]:
        """Perplexity from the mean loss over all tokens: the mean of perplexities would be another, larger number."""
        return {**means, "perplexity": perplexity(means["loss"])}

    def add_embedding_noise(self, embedding: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
        r"""NEFTune (Jain et al. 2023, 2310.05914): noise in $\pm \alpha / \sqrt{T H}$ on the (B, T, H) embeddings.

        Scaled so that a row's noise has about the same length whatever T and H are. Training only: `evaluate` is exact.
        """
        if not embedding.training:
            return output
        size = self.config.neftune_alpha / (output.shape[1] * output.shape[2]) ** 0.5
        return output + torch.empty_like(output).uniform_(-size, size)
