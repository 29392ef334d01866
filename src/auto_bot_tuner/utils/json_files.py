"""JSON files of unknown origin, read for what they say: one that is missing, torn or no JSON says nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

NO_JSON = (OSError, ValueError, RecursionError)  # what reading one can raise: nested too deep is one of them


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except NO_JSON:
        return {}
    return found if isinstance(found, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file. A kill may have torn its last line: that one is left out."""
    try:
        # Not splitlines(): a model may write U+2028 and its like, which end a line for Python and not in JSON lines.
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except (OSError, ValueError):
        return []
    return list(_objects(lines))


def count_in(found: Any, name: str) -> int:
    """A count (steps, rows) in an object that was read; 0 where it says none."""
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, int) and 0 < value < 2**63 else 0


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
