"""Data sets that are here, with what their rows can teach: bundled, downloaded, files beside us. No torch."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from auto_bot_tuner.assets import BUNDLED_DATASETS
from auto_bot_tuner.data.dataset_facts import uses
from auto_bot_tuner.hub.cache import Cached, cached
from auto_bot_tuner.utils.sizes import readable_size

# What rows can be: answers to imitate, comparisons, prompts to answer, plain text.
BUNDLED_KINDS = {
    "tiny-instructions": ("answers", "prompts"),
    "tiny-preferences": ("preferences", "prompts"),
    "tiny-prompts": ("prompts", "answers"),
    "tiny-puzzles": ("prompts", "answers"),
    "tiny-text": ("text",),
}
# What a command makes of rows that it can read.
KIND_OF = {
    "train-sft": "answers",
    "train-dpo": "preferences",
    "train-reward": "preferences",
    "train-ppo": "prompts",
    "train-grpo": "prompts",
}
PLACES = (".", "data")  # where one keeps one's own files
FORMATS = (".jsonl", ".csv", ".parquet", ".json")
MANY = 50  # files that a list still serves


@dataclass(frozen=True)
class DataFound:
    """A data set that can be had without a network."""

    name: str  # as --dataset takes it
    origin: str  # bundled, downloaded or file
    about: str
    kinds: tuple[str, ...]  # what it serves best first; empty where only a look inside would say


def data_sets(root: Path) -> list[DataFound]:
    """Files at `root`, what is bundled, what was downloaded."""
    bundled = [DataFound(name, "bundled", about, BUNDLED_KINDS[name]) for name, about in BUNDLED_DATASETS.items()]
    downloaded = [
        DataFound(entry.name, "downloaded", readable_size(entry.size_bytes), ()) for entry in in_cache("dataset")
    ]
    return [*islice(own_files(root), MANY), *bundled, *downloaded]


def in_cache(kind: str) -> list[Cached]:
    """`cached`, without importing the hub's library where its cache is not even there."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    named = [os.environ[name] for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE") if os.environ.get(name)]
    if not any(folder.is_dir() for folder in (home / "hub", home / "datasets", *map(Path, named))):
        return []
    return cached("model" if kind == "model" else "dataset")


def own_files(root: Path) -> Iterator[DataFound]:
    """Files with rows in the places where one keeps them."""
    for place in PLACES:
        folder = root / place
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.lower() in FORMATS and path.is_file() and not path.name.startswith("."):
                name = os.path.relpath(path, root)
                kinds = kinds_of(columns_of(path))
                if kinds or path.suffix.lower() not in (".json", ".csv"):  # many things are JSON and no data
                    yield DataFound(name, "file", readable_size(path.stat().st_size), kinds)


def columns_of(path: Path) -> Iterable[str]:
    """The columns that a file's first row names; none where that takes more than a look."""
    try:
        with path.open(encoding="utf-8") as file:
            if path.suffix.lower() == ".csv":
                return next(csv.reader(file), [])
            if path.suffix.lower() == ".jsonl":
                row = json.loads(file.readline(1_000_000))
                return row if isinstance(row, dict) else ()
    except (OSError, ValueError, csv.Error):
        pass
    return ()


def kinds_of(columns: Iterable[str]) -> tuple[str, ...]:
    """What rows with these columns can be, best first.

    >>> kinds_of(["prompt", "chosen", "rejected"])
    ('preferences', 'prompts')
    """
    found = ["text" if use.format == "text" else KIND_OF[use.verb] for use in uses(columns)]
    # Whatever has answers has prompts before them.
    return tuple(dict.fromkeys([*found, "prompts"] if {"answers", "preferences"} & set(found) else found))
