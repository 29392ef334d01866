"""Reward models on real preferences: five splits, each trained on four fifths of the rows and measured on the rest."""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from auto_bot_tuner.data.formats import opening
from auto_bot_tuner.data.grouping import Grouped
from auto_bot_tuner.evaluation.baselines import bag_of_words
from auto_bot_tuner.evaluation.intervals import Share, bootstrap_interval, share_won
from auto_bot_tuner.evaluation.reward_evaluation import read_pairs, score_all
from auto_bot_tuner.rlhf import (
    RewardEnsemble,
    RewardModelConfig,
    RewardModelDataset,
    RewardModelTrainer,
    create_reward_model_from_pretrained,
    score_responses,
)
from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
from auto_bot_tuner.utils.quiet import quiet_libraries

FOLDS = 5


@dataclass(frozen=True)
class Recipe:
    """How one reward model is made."""

    start: str  # folder of the language model that gets the score head
    max_length: int = 512
    frozen_base: bool = False
    members: int = 1  # reward models of different seeds, whose mean scores
    settings: dict[str, Any] = field(default_factory=dict)  # of RewardModelConfig


class Split(NamedTuple):
    train: list[Any]
    held_out: list[Any]


class Measured(NamedTuple):
    """One split: margins of its held-out pairs, by the model and by the rule of length."""

    margins: list[float]  # score of the chosen answer - that of the rejected one
    longer: list[float]  # the same for the rule of length that holds on the training pairs: ± difference in characters
    words: Share  # what the bag of words gets right
    openings: list[str]  # how each pair's conversation begins: pairs that begin alike are not independent
    prefers_longer: bool  # the rule of length


def splits(rows: Sequence[Any], seed: int) -> list[Split]:
    """Five splits whose held-out parts are all rows, each once. What begins alike is on one side of every split."""
    openings = sorted({opening(row) for row in rows})
    random.Random(seed).shuffle(openings)
    fold = {text: i % FOLDS for i, text in enumerate(openings)}
    return [
        Split([r for r in rows if fold[opening(r)] != i], [r for r in rows if fold[opening(r)] == i])
        for i in range(FOLDS)
    ]


def measure(split: Split, recipe: Recipe, seed: int) -> Measured:
    """Train on one side of a split, measure on the other."""
    scorer, tokenizer = train(split.train, recipe, seed)
    known, unknown = read_pairs(split.train).pairs, read_pairs(split.held_out).pairs

    def score(prompts: Any, answers: Any, ended: Any) -> list[float]:
        return score_responses(scorer, tokenizer, prompts, answers, 16, ended)

    chosen, rejected = (score_all(score, unknown, side) for side in (0, 1))
    prefers_longer = share_won(length_margins(known)).value >= 0.5
    return Measured(
        [better - worse for better, worse in zip(chosen, rejected, strict=True)],
        [margin if prefers_longer else -margin for margin in length_margins(unknown)],
        bag_of_words(texts(known), texts(unknown)).right,
        [opening(split.held_out[pair.origin]) for pair in unknown],
        prefers_longer,
    )


def train(rows: Sequence[Any], recipe: Recipe, seed: int) -> tuple[RewardEnsemble, Any]:
    """The mean of `recipe.members` reward models, and their tokenizer. Nothing of the runs stays on disk."""
    members = []
    for member in range(recipe.members):
        tokenizer = load_model_and_tokenizer(recipe.start, frozen=True)[1]
        reward_model = create_reward_model_from_pretrained(
            recipe.start, tokenizer, "cpu", frozen_base=recipe.frozen_base
        )
        data = RewardModelDataset(rows, tokenizer, recipe.max_length)
        with tempfile.TemporaryDirectory() as folder, silence():
            config = RewardModelConfig(
                output_dir=f"{folder}/run",
                seed=seed + 1000 * member,
                frozen_base=recipe.frozen_base,
                report_to=(),
                num_samples=0,
                save_steps=0,
                **recipe.settings,
            )
            RewardModelTrainer(reward_model, tokenizer, data, None, config).train()
        members.append(reward_model)
    return RewardEnsemble(members), tokenizer


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No progress lines: a benchmark makes many runs, and errors are raised anyway."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), quiet_libraries():
        yield


def length_margins(pairs: Sequence[Grouped]) -> list[float]:
    """By how many characters each chosen answer is longer than the rejected one."""
    return [float(len(better) - len(worse)) for better, worse in texts(pairs)]


def texts(pairs: Sequence[Grouped]) -> list[tuple[str, str]]:
    """(chosen, rejected) answers in words."""

    def spoken(response: Any) -> str:
        return "\n".join(turn["content"] for turn in response if turn["role"] == "assistant")

    return [(spoken(pair.responses[0]), spoken(pair.responses[1])) for pair in pairs]


# ---- what five splits amount to -------------------------------------------------------------------------------------


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of splits and its standard error, s / sqrt(n)."""
    return fmean(values), stdev(values) / len(values) ** 0.5


def interval_by_opening(measured: Sequence[Measured], won: Any) -> tuple[float, float]:
    """The 95 % interval of a mean over all pairs, drawn by opening: pairs of one thread are no independent evidence.

    `won` gives a number for each pair of a split.
    """
    sums: dict[str, list[float]] = {}
    for split in measured:
        for text, value in zip(split.openings, won(split), strict=True):
            total = sums.setdefault(text, [0.0, 0.0])
            total[0] += value
            total[1] += 1
    table = np.array(list(sums.values()))  # (openings, 2): sum and number of pairs

    def share(places: Any, axis: int = -1) -> Any:
        drawn = table[places.astype(int)]  # (R, openings, 2)
        return drawn[..., 0].sum(axis) / drawn[..., 1].sum(axis)

    return bootstrap_interval(range(len(table)), share)


def right(margins: Sequence[float]) -> list[float]:
    """1 where the margin is positive, 1/2 where it is 0: as `share_won` counts."""
    return [(margin > 0) + (margin == 0) / 2 for margin in margins]
