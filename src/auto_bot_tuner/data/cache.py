"""Tokenised rows on disk, so that a second run starts at once.

The key is a digest of all that the tokens depend on: the rows' content, the tokenizer, the template (as
rendered: it may write today's date) and the settings. An entry is one safetensors file: nothing is unpickled, and
one that cannot be read is simply made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from auto_bot_tuner.data.prompt_format import PromptFormat

VERSION = "1"  # raise it whenever the same input gives other tokens
SMALLEST = 1000  # rows; fewer are tokenised sooner than they are looked up
NEWEST_KEPT = 20  # entries; about 30 MB each for 50,000 alpaca rows

Arrays = dict[str, "np.ndarray[Any, np.dtype[Any]]"]


def cache_folder() -> Path:
    """`$AUTO_BOT_TUNER_CACHE`, else `$XDG_CACHE_HOME/auto_bot_tuner`, else `~/.cache/auto_bot_tuner`."""
    own = os.environ.get("AUTO_BOT_TUNER_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own).expanduser() if own else Path(home).expanduser() / "auto_bot_tuner"


def digest(parts: Iterable[Any]) -> str:
    """A key for JSON-like parts, independent of the order of an object's keys."""
    state = hashlib.blake2b(VERSION.encode(), digest_size=16)
    dumped = json.JSONEncoder(sort_keys=True).encode  # made once: `json.dumps` would make one per row
    for part in parts:
        state.update(dumped(part).encode() + b"\n")
    return state.hexdigest()


def read(key: str) -> Arrays | None:
    """The arrays stored under `key`, or None where there are none or they cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = cache_folder() / f"{key}.safetensors"
    try:
        arrays: Arrays = load_file(path)
        path.touch()  # the least recently used entries go first
    except (OSError, SafetensorError):
        return None
    return arrays


def write(key: str, arrays: Arrays) -> None:
    """Store arrays under `key`: aside, then renamed, so that no reader meets half a file."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    folder = cache_folder()
    aside = folder / f"{key}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(arrays, aside)
        os.replace(aside, folder / f"{key}.safetensors")
        entries = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for old in entries[:-NEWEST_KEPT]:
            old.unlink(missing_ok=True)
    except (OSError, SafetensorError):
        with suppress(OSError):  # the cache saves time, it is not the work
            aside.unlink()


def tokenised(
    rows: Sequence[Any], prompt_format: PromptFormat, settings: Sequence[Any], tokenise: Callable[[], Arrays]
) -> Arrays:
    """What `tokenise` makes of `rows` (JSON-like), taken from disk where the same was made before."""
    if len(rows) < SMALLEST:
        return tokenise()
    tokenizer = prompt_format.tokenizer
    sample = prompt_format.encode([{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}])
    vocabulary = [tokenizer.backend_tokenizer.to_str(), tokenizer.bos_token_id, tokenizer.eos_token_id]
    key = digest([*vocabulary, prompt_format.template, sample.input_ids, settings, *rows])
    columns = read(key)
    if columns is None:
        columns = tokenise()
        write(key, columns)
    return columns
