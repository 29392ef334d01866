"""A few rows token by token, at the first and the last evaluation: what a heat-map is drawn from.

A curve says that something was learnt; which words it was learnt on stands here. Each trainer says what its method
knows of a token (`Trainer.token_views`), and the run writes it to token_views.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.data.viewer import side_names, token_texts
from auto_bot_tuner.training.batching import Batch

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer

MOST_ROWS = 3  # enough to see a pattern, few enough to read
MOST_TOKENS = 256  # of a view
MOST_CHARACTERS = 2000  # of its prompt, whose end is kept

View = dict[str, Any]


def token_view(
    tokenizer: Any,
    title: str,
    input_ids: Sequence[int],
    trained: Sequence[bool],
    series: Mapping[str, Sequence[float]],
) -> View:
    """One sequence (T tokens) from its first trained token on; what stands before it is the prompt.

    Args:
        trained: of each token, whether it is trained.
        series: the figures of each token, by name; they count where the token is trained.
    """
    start = next((place for place, is_trained in enumerate(trained) if is_trained), len(input_ids))
    shown = slice(start, start + MOST_TOKENS)
    texts = token_texts(tokenizer, list(input_ids))  # of all: a token's text may hang on those before it
    return {
        "title": title,
        "prompt": "".join(texts[:start])[-MOST_CHARACTERS:],
        "tokens": texts[shown],
        "trained": list(trained[shown]),
        "series": {name: known(values[shown], trained[shown]) for name, values in series.items()},
    }


def known(values: Sequence[float], trained: Sequence[bool]) -> list[float | None]:
    """Four significant digits of what is a number, None elsewhere: a colour shows no more, and rounding is no news."""
    return [
        float(f"{round(value, 5):.4g}") + 0.0 if is_trained and math.isfinite(value) else None
        for value, is_trained in zip(values, trained, strict=True)
    ]


def shown_rows(trainer: Trainer) -> tuple[Any, range]:
    """The data set that views are made of and the rows of it: evaluation rows where there are any, none with
    `num_samples` 0."""
    dataset = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
    return dataset, range(min(trainer.config.num_samples, MOST_ROWS, len(dataset)))


def views_of_groups(trainer: Trainer, series_of: Callable[[Batch], dict[str, torch.Tensor]]) -> list[View]:
    """The first groups (pairs, rankings, single answers), a view for each side.

    Args:
        series_of: called with a group's batch; the figures of its tokens by name, (S, T) each.
    """
    dataset, rows = shown_rows(trainer)
    views = []
    for row in rows:
        group = dataset.group(row)
        series = series_of(trainer.collate(dataset, [row]).to(trainer.accelerator.device))
        for side, title in enumerate(titles(dataset, row, len(group.input_ids))):
            ids, labels = group.input_ids[side].tolist(), group.labels[side].tolist()
            trained = [label != IGNORE_INDEX for label in labels]
            found = {name: values[side, : len(ids)].tolist() for name, values in series.items()}
            views.append(token_view(trainer.tokenizer, title, ids, trained, found))
    return views


def titles(dataset: Any, row: int, sides: int) -> list[str]:
    """What the sides are called: chosen and rejected, or as the kind of the data says."""
    if hasattr(dataset, "kind"):
        return side_names(dataset, row)
    return ["chosen", "rejected"] if sides == 2 else [f"answer {side}" for side in range(sides)]
