"""`evaluate reward`: the report card of a reward model on held-out pairs."""

from __future__ import annotations

from typing import Any

from pydantic import NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from commands.evaluate.arguments import RowArguments
from commands.evaluate.inputs import load, split_of
from commands.evaluate.printing import check_picture
from commands.evaluate.reward_card import as_record, print_card


@dataclass(config=STRICT, kw_only=True)
class RewardArguments(RowArguments):
    """How good is a reward model? Accuracy by kind of pair and by its own confidence, beside rules that understand
    nothing; and whether it minds answers that are spoilt on purpose."""

    # Preference data that the reward model was not trained on.
    dataset: str = "tiny-preferences"
    # Use at most this many rows, drawn by a seeded lot. 0: all.
    max_samples: NonNegativeInt = 0
    # Data set that the bag-of-words baseline is fitted on. Empty: the same as --dataset.
    train_dataset: str = ""
    # Split that it is fitted on, e.g. train[:80%]. Empty: train, where that is not what is measured.
    train_split: str = ""
    # Spoil the chosen answers of at most this many pairs, and see whether the scores fall. 0: none.
    probes: NonNegativeInt = 200
    # Answers scored at once.
    batch_size: PositiveInt = 16
    # Draw the card into this file: .png, .svg or .pdf.
    plot: str = ""


def measure(arguments: RewardArguments) -> dict[str, Any]:
    """Score, print and draw the card; its numbers for `--json`."""
    check_picture(arguments.plot)

    from auto_bot_tuner.evaluation.reward_evaluation import evaluate_reward_model, read_pairs

    found = read_pairs(load(arguments))
    train_pairs = read_pairs(train_rows).pairs if (train_rows := training_rows(arguments)) else []

    from auto_bot_tuner.rlhf import load_reward_model

    reward_model, tokenizer, _ = load_reward_model(
        arguments.model, arguments.device, arguments.dtype, arguments.trust_remote_code
    )
    report = evaluate_reward_model(
        reward_model, tokenizer, found.pairs, train_pairs, arguments.probes, arguments.batch_size
    )
    prompts = len({str(pair.prompt) for pair in found.pairs})
    counted = f"{len(found.pairs):,} pairs" + (f" of {prompts:,} prompts" if prompts < len(found.pairs) else "")
    title = f"{arguments.model} on {arguments.dataset}, {split_of(arguments)} ({counted})"
    print_card(report, title, found.left_out)
    if prompts < len(found.pairs):
        print("\npairs of one prompt are not independent: the intervals count what each adds")
    if arguments.plot:
        from auto_bot_tuner.evaluation.charts import draw_reward_report

        draw_reward_report(report, arguments.plot, title)
        print(f"picture: {arguments.plot}")
    return {"pairs": len(found.pairs), "prompts": prompts, "left_out": found.left_out, **as_record(report)}


def training_rows(arguments: RewardArguments) -> Any:
    """The rows for the bag-of-words baseline, or None where none were named and none are sure to be others."""
    from auto_bot_tuner.data.sources import load_split, load_splits

    name = arguments.train_dataset or arguments.dataset
    if arguments.train_dataset or arguments.train_split:
        return load_split(name, arguments.train_split or "train", arguments.subset)
    measured = split_of(arguments).partition("[")[0]
    splits = load_splits(name, arguments.subset, wanted=measured)
    return None if measured == "train" or "train" not in splits else splits["train"]
