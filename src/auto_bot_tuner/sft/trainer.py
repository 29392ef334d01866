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

from typing import Any

import torch
from torch import nn

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.evaluation.engine import evaluation_mode
from auto_bot_tuner.sft.config import SFTConfig
from auto_bot_tuner.sft.loss import perplexity
from auto_bot_tuner.training.batching import Batch
from auto_bot_tuner.training.logprobs import SequenceLogprobs, causal_model
from auto_bot_tuner.training.loop import Trainer
from auto_bot_tuner.training.token_views import View, shown_rows, token_view

__all__ = ["SFTConfig", "SFTTrainer"]


class SFTTrainer(Trainer):
    """Trains a model on `InstructionDataset` rows with `sft_loss`.

    SFTTrainer(model, tokenizer, train_dataset, eval_dataset=None, config=None, callbacks=None); `train()` returns a
    summary, `evaluate()` the metrics of the evaluation rows.
    """

    Config = SFTConfig
    config: SFTConfig

    def train(self) -> dict[str, Any]:
        """As the loop's; with NEFTune, the embeddings get noise meanwhile."""
        if not self.config.neftune_alpha:
            return super().train()
        embedding = causal_model(self.model).get_input_embeddings()
        with embedding.register_forward_hook(self.add_embedding_noise):  # and leave the model as it was
            return super().train()

    def compute_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """`sft_loss` of a micro-batch, computed without ever holding all of its logits (`training/logprobs.py`)."""
        self.row_lengths = batch["lengths"]
        summed_nll, correct = self.module(batch["input_ids"], batch["labels"], batch["lengths"])
        # The loop multiplies by the weight again. A process without rows in this step has weight 0, not 0/0.
        trained_tokens = max(batch.weight, 1)
        return summed_nll / trained_tokens, {"accuracy": correct / trained_tokens}

    def describe(self, means: dict[str, float]) -> dict[str, float]:
        """Perplexity from the mean loss over all tokens: the mean of perplexities would be another, larger number."""
        return {**means, "perplexity": perplexity(means["loss"])}

    @torch.no_grad()
    def token_views(self) -> list[View]:
        """The loss of each trained token, in nats, of the first rows."""
        module, views = SequenceLogprobs(self.model), []
        dataset, rows = shown_rows(self)
        for row in rows:
            batch = self.collate(dataset, [row])
            on_device = batch.to(self.accelerator.device)
            with evaluation_mode(self.model), self.accelerator.autocast():
                logprobs = module(*(on_device[name] for name in ("input_ids", "labels", "lengths")))[0]  # (T,)
            trained = batch["labels"][0] != IGNORE_INDEX
            trained[0] = False  # nothing predicts it
            ids, loss = batch["input_ids"][0].tolist(), (-logprobs).tolist()
            views.append(token_view(self.tokenizer, f"row {row}", ids, trained.tolist(), {"loss": loss}))
        return views

    def add_embedding_noise(self, embedding: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
        r"""NEFTune (Jain et al. 2023, 2310.05914): noise in $\pm \alpha / \sqrt{T H}$ on the embeddings (…, H).

        Scaled by the length T of the token's own row, so that the noise of a whole row is about as long whatever its T.
        Training only: `evaluate` is exact.
        """
        if not embedding.training:
            return output
        lengths = self.row_lengths  # (B,)
        is_flat = output.shape[0] != len(lengths)  # the rows end to end, (1, sum of lengths, H), else (B, T, H)
        tokens = lengths.repeat_interleave(lengths)[None, :, None] if is_flat else lengths[:, None, None]
        size = self.config.neftune_alpha / (tokens * output.shape[-1]).sqrt()
        return output + torch.empty_like(output).uniform_(-1, 1) * size
