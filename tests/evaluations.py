"""`evaluate` as a person runs it, in this process: rows to a file, and what a command says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import main


def write_rows(name: str, rows: list[Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluate(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """(what `--json` holds, what was printed) of a command that must succeed, on lines of 80 columns."""
    code = main.main(f"evaluate {command} --json out/numbers.json".split())
    out, err = capsys.readouterr()
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80, out
    numbers: dict[str, Any] = json.loads(Path("out/numbers.json").read_text())
    return numbers, out
