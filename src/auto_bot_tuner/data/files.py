"""Local files → lists of rows, each with the line that it stands on. A broken file is found before heavy imports."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from auto_bot_tuner.utils.errors import UserError, one_line

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

Numbered = tuple[list[Any], list[str]]  # rows, and how a person finds each: "line 7"


def read_file(path: Path) -> Numbered:
    """Rows of a .jsonl, .json, .csv or .parquet file, with their places. Raises `UserError` in one line."""
    reader = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}.get(
        path.suffix.lower()
    )
    if reader is None:
        raise UserError(
            f"{path}: a {path.suffix or 'nameless'} file is not understood; give one of {', '.join(SUFFIXES)}"
        )
    try:
        rows, places = reader(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror or error}; check the path and its permissions"
        ) from error
    if not rows:
        raise UserError(f"{path} holds no rows: give a file with at least one")
    return rows, places


def _lines(path: Path) -> list[str]:
    """Lines by "\\n" only (`splitlines` would also cut at U+2028, which JSON strings may hold)."""
    lines = []
    for number, raw in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            lines.append(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} line {number}: byte {raw[error.start]:#04x} at column {error.start} is not UTF-8; "
                f"save the file as UTF-8 (iconv -f latin1 -t utf-8)"
            ) from error
    return lines


def _read_jsonl(path: Path) -> Numbered:
    rows, places = [], []
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            rows.append(_parse(line, f"{path.name} line {number}"))
            places.append(f"line {number}")
    return rows, places


def _read_json(path: Path) -> Numbered:
    """A list of objects; JSON lines under the name .json are common and understood."""
    lines = _lines(path)
    if not "".join(lines).lstrip().startswith("["):
        if lines[0].strip() == "{":  # no row of JSON lines begins so
            raise UserError(f"{path.name} holds one object: give a list of rows, [{{…}}, …], or one row a line")
        return _read_jsonl(path)
    rows = _parse("\n".join(lines), path.name)
    return rows, [f"row {i}" for i in range(len(rows))]


class _DoubledKey(Exception):
    """Its argument is the key."""


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # JSON allows it, Python keeps the last, and nobody hears of the first
        names = [name for name, _ in pairs]
        raise _DoubledKey(next(name for name in names if names.count(name) > 1)[:40])
    return found


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise UserError(f"{where}: broken JSON ({error.msg} at {place}); mend or remove it") from error
    except _DoubledKey as error:
        raise UserError(f"{where}: the key {error.args[0]!r} stands twice: rename one, or it is lost") from error
    except ValueError as error:  # Python reads no number of more than some thousand digits
        raise UserError(f"{where}: a number of too many digits to be one; mend or remove it") from error
    except RecursionError as error:
        raise UserError(f"{where}: JSON nested too deeply to be a row; mend or remove it") from error


def _read_csv(path: Path) -> Numbered:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than one long story
    reader = csv.DictReader(io.StringIO("\n".join(_lines(path)), newline=""), strict=True)
    rows, places = [], []
    try:
        header = reader.fieldnames or ()
        if doubled := next((name for name in header if header.count(name) > 1), None):
            raise UserError(f"{path.name} line 1: column {doubled[:40]!r} stands twice: rename one, or it is lost")
        for row in reader:
            place = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(
                    f"{path.name} {place}: not {len(reader.fieldnames or ())} cells as in the header; "
                    'put texts that hold commas or line breaks between "quotes"'
                )
            rows.append(row)
            places.append(place)
    except csv.Error as error:
        raise UserError(f"{path.name} line {reader.line_num}: broken CSV ({error}); mend or remove it") from error
    return rows, places


def _read_parquet(path: Path) -> Numbered:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's refusal, not the content's
            raise
        raise UserError(
            f"{path} is no readable parquet file ({one_line(error)}); write or download it again"
        ) from error
    return rows, [f"row {i}" for i in range(len(rows))]
