"""What can be wrong with a reward model's training: an objective that its rows do not serve, scores that say little."""

from __future__ import annotations

from typing import Any

from auto_bot_tuner.rlhf.config import RewardModelConfig
from auto_bot_tuner.utils.errors import UsageError, UserError

WILD_LOSS = 2.0  # a new head scores with deviation 1: its pairs lose 0.9 on average


def check_rows_serve(config: RewardModelConfig, dataset: Any, eval_dataset: Any = None) -> None:
    """
    Raises:
        UsageError: the rows lack what the objective compares.
    """
    if config.sample_prompts:
        raise UsageError("a reward model writes no answers: leave sample_prompts out")
    if config.use_margin and config.objective != "pairs":
        raise UsageError(f"use_margin is for pairs; {config.objective} say by themselves how far apart responses are")
    if config.objective == "scores" and (config.centering or config.label_smoothing):
        ignored = "centering" if config.centering else "label_smoothing"
        raise UsageError(f"{ignored} is for pairs and rankings; scores have a zero point and no order: leave it out")
    if not len(dataset):
        raise UserError("the training set is empty: check --dataset, --split and --max-samples")
    group = dataset.group(0)
    if config.objective == "pairs" and len(group.input_ids) != 2:
        raise UsageError(
            f"objective pairs compares two responses and these rows have {len(group.input_ids)}: "
            "make the data set with the kind pairs, or choose the objective rankings or scores"
        )
    if config.use_margin or config.objective == "scores":
        wish = "use_margin" if config.use_margin else "objective scores"
        for rows in [dataset] if eval_dataset is None else [dataset, eval_dataset]:
            # nan is not itself
            lacking = sum(any(score != score for score in rows.group(i).scores) for i in range(len(rows)))
            if lacking:
                raise UsageError(
                    f"{wish} needs a number for each response, and {lacking:,} of {len(rows):,} rows have none: "
                    "give rows with scores"
                )


def remarks_on(evaluation: dict[str, float], is_first: bool, is_last: bool) -> list[str]:
    """What a person should be told about an evaluation of pairs or rankings: the first of a run, the last."""
    loss, accuracy, ruler = (evaluation[f"eval_{name}"] for name in ("loss", "accuracy", "length_accuracy"))
    if is_first and loss > WILD_LOSS:
        return [
            f"before the first step the loss is {loss:.2f}, and guessing costs 0.69: the scores are far apart and "
            "mostly wrong; was the reward model that this one goes on from trained on other judgements?"
        ]
    if is_last and accuracy <= ruler:
        return [
            f"the accuracy on held-out rows, {accuracy:.0%}, is no better than that of length alone, {ruler:.0%}: "
            "train on more rows or with a larger --learning-rate, or look for what the judges went by"
        ]
    return []
