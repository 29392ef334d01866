"""Words of a model card that others will read: names that mean something elsewhere, and text that stays text."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from auto_bot_tuner.assets import BUNDLED_DATASETS, BUNDLED_MODELS
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.terminal import neutral

LONGEST_TEXT = 600  # characters of a sample


def is_hub_id(name: str) -> bool:
    """Whether a name means the same on the hub: no path, no file, no bundled name."""
    is_ours = name in BUNDLED_MODELS or name in BUNDLED_DATASETS
    is_file = name.lower().endswith((".jsonl", ".json", ".csv", ".parquet")) or expanded(name).exists()
    return bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name)) and not is_ours and not is_file


def public(name: str) -> str:
    """A name for others: of an absolute path its last two parts, for those before them tell of a home folder."""
    if name.startswith("~") or PurePath(name).is_absolute():
        return "/".join(PurePath(name).parts[-2:])
    return name


def portable(value: Any) -> Any:
    """A setting with its paths made public."""
    if isinstance(value, str):
        return public(value)
    return [portable(item) for item in value] if isinstance(value, list | tuple) else value


def cut(text: str) -> str:
    """Text of unknown origin, short and without control characters."""
    text = neutral(str(text).strip())
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def cell(text: str) -> str:
    """Text in a Markdown table: one line, no bar, no markup."""
    return re.sub(r"([|`*_<>\[\]\\])", r"\\\1", " ".join(neutral(text).split()))


def code(text: str) -> str:
    """A name between backticks, which it cannot close."""
    return f"`{' '.join(neutral(text).split()).replace('`', chr(39))}`"


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any within."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}{language}\n{text}\n{fence}\n"
