r"""How surprised is the model by a text?

    perplexity = exp( - (1/N) \sum_t log p(x_t | x_{<t}) )

the geometric mean of 1/p over all N scored tokens: "as unsure as between that many equally likely words". Two traps:
means of per-text (or per-batch) perplexities weigh a token of a short text more than one of a long text, so sums are
taken first and divided once; and a token is an arbitrary unit. *Bits per byte*, the same sum divided by the text's
bytes, compares models with different tokenizers.

A text longer than the model's context is read through a window that slides by half its width. Each token is scored
once, and all but the text's first half-window with at least half a window of context before it: cutting it in
disjoint pieces instead would score every piece's start without context, and call a good model bad.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.evaluation.engine import context_limit, evaluation_mode
from auto_bot_tuner.training.batching import collate, cut_by_tokens
from auto_bot_tuner.training.logprobs import SequenceLogprobs
from auto_bot_tuner.utils.errors import UserError

Item = dict[str, Sequence[int]]  # input_ids and labels of one sequence, or of one window of it

# Window of models whose config names no context limit.
DEFAULT_WINDOW = 1024


class ScoredRow(NamedTuple):
    """The tokens of one row that have a loss."""

    places: np.ndarray  # (n,): where in the row each stands, from 0
    losses: np.ndarray  # (n,): -log p, nats


def compute_perplexity(
    model: Any, tokenizer: Any, texts: str | Sequence[str], window: int = 0, batch_tokens: int = 4096
) -> dict[str, float]:
    """Perplexity of raw text.

    Args:
        texts: one text or several; they do not see each other.
        window: tokens seen at once; 0 takes the model's context.
        batch_tokens: rows x tokens of one forward pass; changes speed and memory only.

    Returns `perplexity`, `loss` (nats per token), `bits_per_byte`, `num_tokens` (scored ones: nothing predicts the
    first token of a text, unless the tokenizer puts a start token before it). Raises UserError where no token can be
    scored.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    return perplexity_of(score_tokens(model, text_items(tokenizer, texts), window, batch_tokens), texts)


def compute_perplexity_on_dataset(
    model: Any, dataset: Any, window: int = 0, batch_tokens: int = 4096
) -> dict[str, float]:
    """Perplexity of the *trained* tokens (labels other than -100) of a tokenised dataset such as `InstructionDataset`.

    Returns `perplexity`, `loss` and `num_tokens`; for the arguments see `compute_perplexity`.
    """
    return perplexity_of(score_tokens(model, dataset_items(dataset), window, batch_tokens))


def perplexity_of(rows: Iterable[ScoredRow], texts: Sequence[str] = ()) -> dict[str, float]:
    """The measures of all rows together; with the texts that they are, bits per byte too."""
    rows = list(rows)
    total, num_tokens = math.fsum(float(row.losses.sum()) for row in rows), sum(len(row.losses) for row in rows)
    loss = total / num_tokens
    metrics = {"perplexity": math.exp(min(loss, 700.0)), "loss": loss, "num_tokens": num_tokens}
    if texts:
        metrics["bits_per_byte"] = total / math.log(2) / sum(len(text.encode()) for text in texts)
    return metrics


def text_items(tokenizer: Any, texts: Sequence[str]) -> list[Item]:
    # `verbose=False`: that a text is longer than the context is our business (the window), not a warning's.
    rows = [list(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]] if texts else []
    # A label at position 0 is never a target, so every row may label all of its tokens.
    return [{"input_ids": ids, "labels": ids} for ids in rows]


def dataset_items(dataset: Any) -> list[Item]:
    return [{name: dataset[i][name].tolist() for name in ("input_ids", "labels")} for i in range(len(dataset))]


def sliding_windows(item: Item, width: int) -> Iterator[Item]:
    """Cut a sequence into windows in which every label appears exactly once.

    The first window labels all it can; each later one starts half a width further on and labels its second half only.

    >>> [w["labels"] for w in sliding_windows({"input_ids": [1, 2, 3, 4, 5, 6], "labels": [1, 2, 3, 4, 5, 6]}, width=4)]
    [[1, 2, 3, 4], [-100, -100, 5, 6]]
    """
    ids, labels = item["input_ids"], item["labels"]
    step = max(1, width // 2)
    labelled = 0  # labels before this position have been handed out
    for start in range(0, max(1, len(ids) - width + step), step):
        end = min(start + width, len(ids))
        context = labelled - start
        yield {"input_ids": ids[start:end], "labels": [IGNORE_INDEX] * context + list(labels[labelled:end])}
        labelled = end


def window_of(model: Any, window: int = 0) -> int:
    """Tokens seen at once: what was asked for, but never more than the model's context."""
    limit = context_limit(model)
    return int(min(window or limit or DEFAULT_WINDOW, limit or math.inf))


@torch.no_grad()
def score_tokens(model: Any, items: Sequence[Item], window: int = 0, batch_tokens: int = 4096) -> list[ScoredRow]:
    """The loss of every labelled token of every row, each scored once.

    Raises:
        UserError: no token can be scored, or the losses are not finite.
    """
    width, windows, homes = window_of(model, window), list[Item](), list[tuple[int, int]]()  # (row, where it starts)
    for row, item in enumerate(items):
        for number, part in enumerate(sliding_windows(item, width)):
            if len(part["input_ids"]) > 1:
                windows.append(part)
                homes.append((row, number * max(1, width // 2)))
    places: list[list[np.ndarray]] = [[] for _ in items]
    losses: list[list[np.ndarray]] = [[] for _ in items]
    logprobs_of = SequenceLogprobs(model)
    with evaluation_mode(model):
        for rows in cut_by_tokens(range(len(windows)), [len(part["input_ids"]) for part in windows], batch_tokens):
            batch = collate(windows, rows).to(model.device)
            logprobs = logprobs_of(**batch.tensors).cpu().double().numpy()  # (B, T)
            for values, at in zip(logprobs, rows, strict=True):
                home, start = homes[at]
                scored = np.flatnonzero(np.array(windows[at]["labels"][1:]) != IGNORE_INDEX) + 1
                places[home].append(scored + start)
                losses[home].append(-values[scored])
    found = [ScoredRow(np.concatenate(p), np.concatenate(v)) for p, v in zip(places, losses, strict=True) if p]
    if not sum(len(row.losses) for row in found):
        raise UserError("perplexity needs at least one token with another before it; the texts hold none")
    if not all(np.isfinite(row.losses).all() for row in found):
        raise UserError("the model's loss is not finite (NaN or infinite weights?): load an earlier checkpoint")
    return found
