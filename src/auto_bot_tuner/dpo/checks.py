"""Checks of a DPO run: data and model that fit the loss, and a first loss that is what theory says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from auto_bot_tuner.dpo.loss import initial_loss
from auto_bot_tuner.training.reference import WORDS
from auto_bot_tuner.utils.errors import UsageError, UserError

if TYPE_CHECKING:
    from auto_bot_tuner.dpo.trainer import DPOTrainer


def check_group_size(dataset: Any, loss: str) -> None:
    """Pairs for all losses but KTO, single answers for that.

    Raises:
        UsageError: the data set holds something else.
    """
    if not hasattr(dataset, "group"):
        raise UsageError("DPO compares answers: give a PreferenceDataset")
    if len(dataset):
        size = len(dataset.group(0).input_ids)
        if loss == "kto" and size != 1:
            raise UsageError("loss kto reads single answers, good or bad: use PreferenceDataset(…, unpaired=True)")
        if loss != "kto" and size != 2:
            raise UsageError(f"loss {loss} reads pairs: use PreferenceDataset(…) without unpaired, or loss kto")


def check_both_kinds(dataset: Any) -> None:
    """KTO tells good answers from bad ones.

    Raises:
        UserError: all are of one kind.
    """
    kinds = {dataset.group(row).scores[0] > 0.5 for row in range(len(dataset))}
    if len(kinds) == 1:
        raise UserError(
            f"loss kto tells good answers from bad ones, and all {len(dataset):,} answers are labelled "
            f"{'good' if kinds.pop() else 'bad'}: give rows of both kinds, or train the good ones with train-sft"
        )


def check_start(trainer: DPOTrainer, apart: float, loss: float) -> None:
    """Before the first update policy and reference are the same model: margin 0, and a loss known in advance.

    Args:
        apart: largest difference of their log-probabilities per token, over the answers of a batch.
        loss: without an SFT term.

    Raises:
        UserError: they are not, so that every later number would be wrong.
    """
    # The same numbers to the bit in one batch; stored ones come from other batches, which round differently.
    # Frozen weights of a lower type round as autocast does, whatever the precision of the run.
    is_exact = trainer.precision == "no" and all(p.dtype == torch.float32 for p in trainer.model.parameters())
    if apart > (1e-4 if is_exact else 0.05):
        cause = {
            "precomputed": "were the stored log-probabilities made by other weights? empty the cache",
            "given": "the reference model computes otherwise: compare in the same precision",
        }.get(trainer.reference_kind, "weights were changed, or something random is on, after the trainer was made")
        raise UserError(
            f"before the first step policy and reference ({WORDS[trainer.reference_kind]}) are the same, yet they "
            f"differ by {apart:.2g} nats per token: {cause}"
        )
    name, beta = trainer.config.loss, trainer.config.beta
    known = initial_loss(name, beta)
    if is_exact and known is not None and not math.isclose(loss, known, rel_tol=1e-2):
        raise UserError(f"before the first step the loss {name} is {known:.4f} for any pair, yet it is {loss:.4f}")
