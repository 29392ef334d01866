"""What the views of `inspect` share: what is looked at, and what a model thinks of each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from auto_bot_tuner.data.rows import Rows
    from auto_bot_tuner.training.config import DatasetConfig


class Inspection(NamedTuple):
    """All that a view needs."""

    train_rows: Rows
    eval_rows: Rows | None
    tokenizer: Any
    settings: DatasetConfig
    console: Console
    rows: int  # to show one by one
    model: Any  # for its losses, or to write; None: neither is asked for


def token_losses(model: Any, input_ids: torch.Tensor) -> list[float]:
    """-log p(token | the tokens before it) of each token of a row, in nats; 0 for the first, which nothing predicts."""
    import torch

    from auto_bot_tuner.training.logprobs import gather_logprobs

    ids = input_ids[None].to(model.device)  # (1, T)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits  # (1, T, V)
    # Position t predicts token t + 1.
    return [0.0, *(-gather_logprobs(logits[0, :-1], ids[0, 1:])).tolist()]
