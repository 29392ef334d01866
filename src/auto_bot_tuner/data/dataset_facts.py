"""What a data set is and what it is good for, from its columns and the numbers of its rows: no row is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from auto_bot_tuner.data.formats import recognise
from auto_bot_tuner.data.preferences import recognise_preference
from auto_bot_tuner.utils.json_files import read_object


@dataclass(frozen=True)
class DatasetFacts:
    """One data set, or one subset of it."""

    splits: dict[str, int]  # name → number of rows
    columns: tuple[str, ...]
    subset: str = ""


@dataclass(frozen=True)
class Use:
    """What a method makes of the rows."""

    format: str  # as the method calls it: alpaca, chat, pair …
    verb: str  # the command that trains on it
    needs: str = ""  # flags that it needs besides --dataset and --model


def prepared(folder: Path, subset: str = "") -> list[DatasetFacts]:
    """The subsets that `datasets` has made rows of below its folder OWNER___NAME; of one name, where it is given."""
    found = {}
    for path in sorted(folder.glob("*/*/*/dataset_info.json"), key=lambda path: path.stat().st_mtime):
        info = read_object(path)
        splits, features = info.get("splits"), info.get("features")
        if not isinstance(splits, dict) or not isinstance(features, dict):
            continue
        name = str(info.get("config_name") or "default")
        rows = {split: int(about.get("num_examples") or 0) for split, about in splits.items()}
        if not subset or name == subset:
            found[name] = DatasetFacts(rows, tuple(features), "" if name.startswith("default") else name)
    return list(found.values())


def uses(columns: Iterable[str]) -> list[Use]:
    """The methods that can read rows with these columns, the best suited first.

    >>> [use.verb for use in uses(["prompt", "chosen", "rejected"])]
    ['train-dpo', 'train-reward', 'train-ppo']
    """
    row = dict.fromkeys(columns)
    found = []
    if preference := recognise_preference(row):
        found += [Use(preference, "train-dpo"), Use(preference, "train-reward")]
    if instruction := recognise(row):
        found.append(Use(instruction, "train-sft"))
    asked = next((name for name in ("prompt", "question") if name in row), "")
    if asked and "answer" in row:
        found.append(Use(f"{asked} + answer", "train-grpo", "--reward numeric"))
    elif asked:
        found.append(Use(asked, "train-ppo", "--reward-model CKPT"))
    return found
