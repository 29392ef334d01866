"""A data set's name → rows: hub, local file, folder saved by `datasets`, or bundled. First station of a row.

name[:split slice] → rows → seeded sample → (train rows, rows held out for evaluation)
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from auto_bot_tuner.assets import BUNDLED_DATASETS, bundled_dataset
from auto_bot_tuner.data.files import SUFFIXES, read_file
from auto_bot_tuner.data.formats import opening
from auto_bot_tuner.data.hub import load_from_hub
from auto_bot_tuner.data.rows import Rows, Source, joined
from auto_bot_tuner.hub.cache import is_cached
from auto_bot_tuner.training.config import DatasetConfig
from auto_bot_tuner.utils.errors import UsageError, UserError, one_line
from auto_bot_tuner.utils.local_paths import is_path, missing_path
from auto_bot_tuner.utils.paths import expanded

# Not a setting: two runs can be compared only if they hold out the same rows.
SEED = 0
EVAL_SPLITS = ("validation", "valid", "dev", "test")
SPLIT = re.compile(r"(?P<name>[\w.\-]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def load_rows(config: DatasetConfig) -> tuple[Rows, Rows | None]:
    """(rows to train on, rows to evaluate on or None) of the `dataset` section of a config.

    The evaluation rows are `eval_name`, else `eval_split`, else the source's own validation or test split, else
    `eval_fraction` of the rows, drawn so that rows which open alike stay on one side.
    Raises `UserError` or `UsageError` with one line.
    """
    check_settings(config)
    parts = config.mix or {config.name: 1.0}
    pairs = [_train_and_eval(name, config) for name in parts]
    weights = list(parts.values())
    train = _mixed([train for train, _ in pairs], weights, config.max_samples)
    if config.eval_name:
        evaluation = _mixed(
            [load_split(config.eval_name, config.eval_split or "train")], [1.0], config.eval_max_samples
        )
    else:
        held_out = [(rows, weight) for (_, rows), weight in zip(pairs, weights, strict=True) if rows]
        evaluation = _mixed([r for r, _ in held_out], [w for _, w in held_out], config.eval_max_samples)
    return train, evaluation if len(evaluation) else None


def load_split(name: str, split: str = "train", subset: str = "") -> Rows:
    """The rows of one split, e.g. `train`, `test[:100]`, `train[10%:20%]`."""
    return _part(name, split, load_splits(name, subset, wanted=split.partition("[")[0]))


def _part(name: str, split: str, splits: dict[str, Rows]) -> Rows:
    match = SPLIT.fullmatch(split)
    if match is None:
        raise UsageError(f"split {split!r} is not understood: write it like train, test[:100] or train[10%:20%]")
    if match["name"] not in splits:
        raise UserError(f"{name} has no split {match['name']!r}, only {', '.join(splits)}: choose one of them")
    rows = splits[match["name"]]
    start, stop = _position(match["start"], len(rows), 0), _position(match["stop"], len(rows), len(rows))
    part = rows.select(range(len(rows))[start:stop])
    if not len(part):
        raise UserError(f"split {split!r} of {name} holds no rows: there are {len(rows)} before slicing")
    return part


def load_splits(name: str, subset: str = "", wanted: str = "train") -> dict[str, Rows]:
    """Every split that the source has. A single file has one, called as `wanted` says."""
    path = expanded(name)
    if name in BUNDLED_DATASETS:
        found = {split: bundled_dataset(name, split) for split in ("train", "test")}
        return {split: _file_rows(file, f"{name} {split}") for split, file in found.items() if file}
    if path.is_dir():
        return _saved_folder(path)
    if path.is_file():
        return {wanted: _file_rows(path, path.name)}
    if is_path(name) and not is_cached(name, "dataset"):
        raise missing_path(name, "dataset")
    return {split: Rows([Source(f"{name} {split}", rows, ())]) for split, rows in load_from_hub(name, subset).items()}


def sampled(rows: Rows, count: int) -> Rows:
    """`count` rows (0: all) drawn by a seeded lot. Their order stays the source's: the loop shuffles anyway."""
    if not count or count >= len(rows):
        return rows
    return rows.select(sorted(random.Random(SEED).sample(range(len(rows)), count)))


def check_settings(config: DatasetConfig) -> None:
    """Contradictions that need no look at the data."""
    if not config.name and not config.mix:
        raise UsageError(
            "no data set given: use --dataset with a file, a hub name, tiny-instructions (for SFT), tiny-preferences, "
            "tiny-prompts (for PPO) or tiny-puzzles (for GRPO)"
        )
    if config.name and config.mix:
        raise UsageError("both dataset.name and dataset.mix are given: leave one out")
    if config.mix and config.format_type != "auto":
        raise UsageError(f"a mix may hold several formats: use format_type auto instead of {config.format_type}")


def _train_and_eval(name: str, config: DatasetConfig) -> tuple[Rows, Rows | None]:
    splits = load_splits(name, config.subset, wanted=config.split.partition("[")[0])
    train = _part(name, config.split, splits)
    if config.eval_name or not (config.eval_split or config.eval_fraction):
        return train, None
    if config.eval_split:
        return train, _part(name, config.eval_split, splits)
    own = next((splits[split] for split in EVAL_SPLITS if split in splits and split not in config.split), None)
    return (train, own) if own else _held_out(train, config)


def _held_out(rows: Rows, config: DatasetConfig) -> tuple[Rows, Rows | None]:
    """Part `rows` into (train, evaluation). Rows that open alike go to one side, or it would test memory."""
    used = min(len(rows), config.max_samples or len(rows))
    wanted = min(max(1, round(config.eval_fraction * used)), config.eval_max_samples or used)
    groups: dict[str, list[int]] = {}
    for index in range(len(rows)):
        groups.setdefault(opening(rows[index]), []).append(index)
    openings = list(groups)
    random.Random(SEED).shuffle(openings)
    held_out: set[int] = set()
    for key in openings:
        if len(held_out) + len(groups[key]) <= wanted and len(held_out) + len(groups[key]) < len(rows):
            held_out.update(groups[key])
    if not held_out:
        return rows, None
    return rows.select([i for i in range(len(rows)) if i not in held_out]), rows.select(sorted(held_out))


def _mixed(parts: list[Rows], weights: list[float], max_samples: int) -> Rows:
    """One set in which part i has the share wᵢ/Σw of the rows: as many rows as that allows, none of them twice."""
    if not parts:
        return Rows([], [])
    shares = [weight / sum(weights) for weight in weights]
    total = min(len(part) / share for part, share in zip(parts, shares, strict=True))
    total = min(total, max_samples or total)
    chosen = []
    for part, share in zip(parts, shares, strict=True):
        chosen.append(sampled(part, max(1, round(total * share))))
    return joined(chosen)


def _position(bound: str | None, length: int, default: int) -> int:
    if bound is None:
        return default
    return round(int(bound[:-1]) / 100 * length) if bound.endswith("%") else int(bound)


def _file_rows(path: Path, name: str) -> Rows:
    rows, places = read_file(path)
    return Rows([Source(name, rows, places)])


def _saved_folder(path: Path) -> dict[str, Rows]:
    """A folder written by `datasets`' save_to_disk: one data set, or several splits."""
    if not (path / "state.json").is_file() and not (path / "dataset_dict.json").is_file():
        raise UserError(
            f"{path} is a folder, but not one saved by datasets (save_to_disk); name a file in it "
            f"({', '.join(SUFFIXES)}) instead"
        )
    import datasets
    import pyarrow

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path} cannot be read as a saved data set ({one_line(error)}): save it again") from error
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    return {split: Rows([Source(f"{path.name} {split}", rows, ())]) for split, rows in splits.items()}
