"""Names that can only have been meant as paths, and what lies near them.

A name of a model or a data set may be a path or a hub id. A mistyped path must not wait for the hub: nobody there
knows it either, and the one who typed it wants to see what lies here instead.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from auto_bot_tuner.training.run_folder import checkpoints
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.settings import nearest
from auto_bot_tuner.utils.shipped_configs import made_by

FILES = (".jsonl", ".json", ".csv", ".parquet", ".txt", ".yaml", ".yml", ".safetensors", ".gguf", ".bin")
SHOWN = 4  # neighbours in a message


def is_path(name: str) -> bool:
    """Whether a name, of which nothing lies here, can only have been meant as a path.

    Hub ids are `name` or `owner/name`. So two slashes, a beginning like ./ or ~ or a file's suffix tell; and a first
    folder that is here, for people seldom have a folder called as an owner on the hub.
    """
    if name.startswith((".", "~", os.sep)) or name.endswith("/") or "\\" in name or name.count("/") > 1:
        return True
    return Path(name).suffix.lower() in FILES or _begins_here(name)


def missing_path(name: str, kind: Literal["model", "dataset"]) -> UserError:
    """What to say of a path at which there is nothing: for a model how it comes to be there; else the nearest path
    that is there, or what lies beside it."""
    complaint = f"no model folder {name} here" if kind == "model" else f"no such file: {name}"
    if kind == "model" and (hint := _unfinished(name)):
        return UserError(f"{complaint}: {hint}")
    if kind == "model" and (maker := made_by(name)):
        near = nearest_path(name)
        return UserError(f"{complaint}{f' (but {near})' if near else ''}; made by: {maker}")
    way = f" (from the hub: python main.py download {kind} {name})" if _is_also_an_id(name) else ""
    if near := nearest_path(name):
        return UserError(f"{complaint}; did you mean {near}?{way}")
    folder = next((folder for folder in expanded(name).parents if folder.is_dir()), Path())
    beside = [
        entry for entry in _names_in(folder) if (folder / entry).is_dir() or (kind == "dataset" and _is_data(entry))
    ]
    more = f" and {len(beside) - SHOWN} more" if len(beside) > SHOWN else ""
    holds = f"holds {', '.join(beside[:SHOWN])}{more}" if beside else "has none"
    return UserError(f"{complaint}; {Path.cwd() if folder == Path() else folder} {holds}: mend the path{way}")


def unfinished_run(folder: Path) -> str:
    """What to do with a run's folder without final/; empty where it has no checkpoint, so nothing to go on from."""
    found = checkpoints(folder)
    if not found:
        return ""
    config = folder / "config.yaml"
    go_on = f"go on with: python main.py train-config {config} --resume" if config.is_file() else "go on with --resume"
    return f"it is a run that did not finish; name a checkpoint in it, such as {found[-1]}, or {go_on}"


def nearest_path(name: str) -> str:
    """The path here that `name` was probably meant to be: for checkpoints/sfft/final, where there is a
    checkpoints/sft/final, that one. Empty where nothing here is like it."""
    here, is_mended = Path(), False
    for part in expanded(name).parts:
        if (here / part).exists():
            here /= part
        elif near := nearest(part, _names_in(here)):
            here, is_mended = here / near, True
        else:
            break
    return str(here) if is_mended else ""


def _begins_here(name: str) -> bool:
    first, slash, _ = name.partition("/")
    return bool(slash) and Path(first).is_dir()


def _unfinished(name: str) -> str:
    """For RUN/final of a run without one."""
    path = expanded(name)
    return unfinished_run(path.parent) if path.name == "final" and path.parent.is_dir() else ""


def _is_also_an_id(name: str) -> bool:
    """`checkpoints/x` is a path here, as there is checkpoints/; on the hub it may be somebody's model all the same."""
    could_be = name.count("/") == 1 and " " not in name
    return could_be and not name.startswith((".", "~", os.sep)) and not name.endswith(("/", *FILES))


def _is_data(name: str) -> bool:
    return name.lower().endswith((".jsonl", ".json", ".csv", ".parquet"))


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []
