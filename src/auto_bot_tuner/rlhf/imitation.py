"""SFT rows beside PPO (as InstructGPT mixes in pre-training, 2203.02155), against forgetting what no reward asks for.

Each optimiser step takes as many rows as it has prompts and spreads them over its micro-batches.
"""

from __future__ import annotations

from typing import Any

import torch

from auto_bot_tuner.training.batching import Batch, collate, epoch_order, row_lengths
from auto_bot_tuner.training.loop import Trainer

IMITATED = ("sft_input_ids", "sft_labels", "sft_lengths")


def add_imitation(trainer: Trainer, batches: list[Batch], dataset: Any, sft_weight: float) -> None:
    """Give each micro-batch its share of SFT rows, scaled so that a step adds sft_weight x the mean over them.

    The loop weighs micro-batch i by w_i / W. So that summed log-likelihoods come out as a mean over the step's
    n trained SFT tokens, its share carries sft_weight · W / (w_i · n), as `sft_scale`.
    """
    rows, per_step = len(row_lengths(dataset)), trainer.rows_per_step
    epoch, place = divmod(trainer.state.step, max(1, rows // per_step))
    order = epoch_order(rows, trainer.config.seed, epoch)[place * per_step : (place + 1) * per_step]
    mine = order[trainer.rank :: trainer.processes]
    # An empty batch would drop its share: it gets none, yet takes part, as processes must sum the same figures.
    filled = [batch for batch in batches if batch.weight]
    dealt = {id(batch): mine[i :: len(filled)] for i, batch in enumerate(filled)}
    shares = [collate(dataset, dealt.get(id(batch), [])) for batch in batches]
    weight, tokens = trainer.total([sum(b.weight for b in batches), sum(share.weight for share in shares)])
    for batch, share in zip(batches, shares, strict=True):
        scale = sft_weight * weight / (batch.weight * tokens) if share.weight else 0.0
        found = [share["input_ids"], share["labels"], share["lengths"], torch.tensor(scale)]
        batch.tensors |= dict(zip((*IMITATED, "sft_scale"), found, strict=True))
