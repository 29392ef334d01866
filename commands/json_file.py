"""Numbers for programs: the `--json FILE` of the verbs that measure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auto_bot_tuner.utils.errors import UsageError, UserError


def check_writable(name: str, flag: str = "--json") -> None:
    """Known before the work, not after it; nothing is created or emptied by looking. No name: nothing to check.

    Raises:
        UsageError: `write_json` to this file would fail.
    """
    if not name:
        return
    path = Path(name).absolute()
    there = next(str(part) for part in (path, *path.parents) if os.path.lexists(part))
    is_sound = os.path.isfile(there) if there == str(path) else os.path.isdir(there)
    if not is_sound or not os.access(there, os.W_OK):
        raise UsageError(f"cannot write {flag} {name}: name a file in a folder that you may write to")


def write_json(name: str, record: Mapping[str, Any]) -> None:
    """Write `record`, with the folders above it. No name: nothing to write.

    Raises:
        UserError: the file cannot be written.
    """
    if not name:
        return
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {name}: {error.strerror}") from error
