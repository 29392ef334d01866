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
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.evaluation.engine import context_limit, evaluation_mode
from auto_bot_tuner.training.batching import collate, cut_by_tokens
from auto_bot_tuner.training.logprobs import CausalNLL
from auto_bot_tuner.utils.errors import UserError

Item = dict[str, Sequence[int]]  # input_ids and labels of one sequence, or of one window of it

# Window of models whose config names no context limit.
DEFAULT_WINDOW = 1024


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
    # `verbose=False`: that a text is longer than the context is our business (the window), not a warning's.
    rows = [list(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]] if texts else []
    # A label at position 0 is never a target, so every row may label all of its tokens.
    metrics = _score(model, [{"input_ids": ids, "labels": ids} for ids in rows], window, batch_tokens)
    num_bytes = sum(len(text.encode()) for text in texts)
    metrics["bits_per_byte"] = metrics["loss"] * metrics["num_tokens"] / math.log(2) / num_bytes
    return metrics


def compute_perplexity_on_dataset(
    model: Any, dataset: Any, window: int = 0, batch_tokens: int = 4096
) -> dict[str, float]:
    """Perplexity of the *trained* tokens (labels other than -100) of a tokenised dataset such as `InstructionDataset`.

    Returns `perplexity`, `loss` and `num_tokens`; for the arguments see `compute_perplexity`.
    """
    items = ({name: dataset[i][name].tolist() for name in ("input_ids", "labels")} for i in range(len(dataset)))
    return _score(model, list(items), window, batch_tokens)


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


@torch.no_grad()
def _score(model: Any, items: Sequence[Item], window: int, batch_tokens: int) -> dict[str, float]:
    limit = context_limit(model)
    width = min(window or limit or DEFAULT_WINDOW, limit or math.inf)
    windows = [part for item in items for part in sliding_windows(item, int(width)) if len(part["input_ids"]) > 1]
    nll = CausalNLL(model)
    total, num_tokens = 0.0, 0
    with evaluation_mode(model):
        for rows in cut_by_tokens(range(len(windows)), [len(part["input_ids"]) for part in windows], batch_tokens):
            batch = collate(windows, rows).to(model.device)
            total += float(nll(**batch.tensors)[0])
            num_tokens += int(batch.weight)
    if num_tokens == 0:
        raise UserError("perplexity needs at least one token with another before it; the texts hold none")
    if not math.isfinite(total):
        raise UserError("the model's loss is not finite (NaN or infinite weights?): load an earlier checkpoint")
    loss = total / num_tokens
    return {"perplexity": math.exp(min(loss, 700.0)), "loss": loss, "num_tokens": num_tokens}
