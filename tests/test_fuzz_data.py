"""Fuzz of data: any values in any column of any format, in files of every kind, whole or torn."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import Outcome, damaged, lawful, quick, texts, thorough, values

ROLES = ("system", "user", "assistant", "human", "gpt", "tool", "", "User")
turns = st.lists(
    st.one_of(
        values,
        st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": texts}),
        st.fixed_dictionaries({"from": st.sampled_from(ROLES), "value": texts}),
        st.fixed_dictionaries({"role": values, "content": values}),
    ),
    max_size=4,
)
sound_turns = st.lists(texts, min_size=1, max_size=5).map(
    lambda said: [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(said)]
)
cells = st.one_of(texts, texts, values, turns, sound_turns)
COLUMNS = {
    "sft": [
        ("instruction", "output"),
        ("instruction", "input", "output"),
        ("messages",),
        ("conversations",),
        ("prompt", "completion"),
        ("text",),
    ],
    "dpo": [
        ("prompt", "chosen", "rejected"),
        ("chosen", "rejected"),
        ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
        ("prompt", "chosen", "rejected", "margin", "category"),
        ("prompt", "responses", "ranking"),
        ("prompt", "responses", "ranks"),
        ("prompt", "responses", "scores"),
        ("prompt", "response", "score"),
        ("prompt", "completion", "label"),
    ],
}


@st.composite
def rows(draw: Any, method: str) -> list[Any]:
    """One to five rows, mostly of one format, with anything in them."""
    columns = draw(st.sampled_from(COLUMNS[method]))
    whole = st.fixed_dictionaries(dict.fromkeys(columns, cells))
    odd = st.one_of(whole, st.dictionaries(st.one_of(texts, st.sampled_from(columns)), cells, max_size=3), values)
    return draw(st.one_of(st.lists(whole, min_size=1, max_size=5), st.lists(odd, min_size=1, max_size=5)))


def as_jsonl(found: list[Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in found).encode()


def as_json(found: list[Any]) -> bytes:
    return json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogatepass")


def as_csv(found: list[Any]) -> bytes:
    columns = list(next((row for row in found if isinstance(row, dict)), {"a": 1}))
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(columns)
    for row in found:
        writer.writerow([row.get(column, "") for column in columns] if isinstance(row, dict) else [row])
    return file.getvalue().encode("utf-8", "surrogatepass")


def as_parquet(found: list[Any]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    try:
        parquet.write_table(pyarrow.Table.from_pylist([row for row in found if isinstance(row, dict)]), file)
    except (pyarrow.ArrowException, OverflowError, UnicodeError, TypeError):  # no such table can be made
        parquet.write_table(pyarrow.table({"text": [1, 2]}), file)
    return file.getvalue()


WRITERS: dict[str, Callable[[list[Any]], bytes]] = {
    "jsonl": as_jsonl,
    "json": as_json,
    "csv": as_csv,
    "parquet": as_parquet,
}
PAIR = b'{"prompt": "a", "chosen": "b", "rejected": "c"'
SILENCE = {"role": "system", "content": " "}
RAW = [b"", b"\xef\xbb\xbf", b"\r\n", b"\0" * 10, b"PAR1", b"\x1f\x8b\x08\0", b"[", b"[]", b"{}", b"null", b"3", b'"a"']
WAYS = {
    "sft": ["inspect --method sft", "evaluate perplexity", "evaluate accuracy"],
    "dpo": ["inspect --method dpo", "inspect --method reward"],
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def look(name: str, content: bytes, way: str) -> Outcome:
    """The command keeps the law, and leaves the file as it was."""
    Path(name).write_bytes(content)
    limits = ["--max-length", "64"] if way.startswith("inspect") else ["--max-samples", "3"]
    few = ["--max-new-tokens", "4"] if "accuracy" in way else []
    try:
        done = lawful([*way.split(), "--model", "tiny", "--dataset", name, *limits, *few])
        assert Path(name).read_bytes() == content and len(list(Path().iterdir())) == 1
        return done
    finally:
        for left in Path().iterdir():
            left.unlink()


@st.composite
def files(draw: Any, most_ways: int = 1) -> tuple[str, bytes, str]:
    method = draw(st.sampled_from(["sft", "dpo"]))
    kind = draw(st.sampled_from(list(WRITERS)))
    content = draw(st.one_of(rows(method).map(WRITERS[kind]), st.sampled_from(RAW)))
    for trick, share in ((b"\xef\xbb\xbf".__add__, 15), (lambda raw: raw.replace(b"\n", b"\r\n"), 10)):
        if draw(st.integers(0, share)) == 1:
            content = trick(content)
    if draw(st.integers(0, 3)) == 1:
        content = damaged(content, draw)
    suffix = draw(st.sampled_from(list(WRITERS))) if draw(st.integers(0, 15)) == 1 else kind
    return f"rows.{suffix}", content, draw(st.sampled_from(WAYS[method][:most_ways]))


# What the thousands have found so far.
FOUND = [
    ("rows.jsonl", b'{"instruction": "a", "output": ' + b"9" * 5000 + b"}", "inspect --method sft"),
    ("rows.json", b"[" + b"9" * 5000 + b"]", "inspect --method sft"),
    ("rows.jsonl", PAIR + b', "margin": 1' + b"0" * 400 + b"}", "inspect --method dpo"),
    ("rows.jsonl", as_jsonl([{"chosen": [SILENCE], "rejected": [SILENCE]}]), "inspect --method dpo"),
    ("rows.jsonl", as_jsonl([{"prompt": "p", "chosen": [SILENCE], "rejected": "x"}]), "inspect --method reward"),
    ("rows.parquet", b"PAR1" + bytes(100) + b"PAR1", "inspect --method sft"),
    ("rows.jsonl", b'{"text": "a", "text": "b"}', "inspect --method sft"),
    ("rows.csv", b"instruction,instruction,output\na,b,c\n", "inspect --method sft"),
]
DOUBLED = [
    ("rows.jsonl", b'{"text": "a"}\n{"text": "a", "text": "b"}', "rows.jsonl line 2: the key 'text' stands twice"),
    ("rows.json", b'[{"text": "a", "text": "b"}]', "rows.json: the key 'text' stands twice"),
    ("rows.jsonl", b'{"messages": [{"role": "user", "role": "system"}]}', "line 1: the key 'role' stands twice"),
    ("rows.csv", b"text,more,text\na,b,c\n", "rows.csv line 1: column 'text' stands twice"),
]


@pytest.mark.parametrize("file", FOUND)
def test_what_was_found(desk: Path, file: tuple[str, bytes, str]) -> None:
    look(*file)


@pytest.mark.parametrize(("name", "content", "told"), DOUBLED)
def test_what_stands_twice_is_refused(desk: Path, name: str, content: bytes, told: str) -> None:
    """Python's readers keep the last and say nothing."""
    done = look(name, content, "inspect --method sft")
    assert done.code == 1 and told in done.err, done


@quick(30)
@given(files())
def test_any_file(desk: Path, file: tuple[str, bytes, str]) -> None:
    look(*file)


@pytest.mark.long
@pytest.mark.timeout(7200)
@thorough(4000)
@given(files(most_ways=3))
def test_any_file_thousands_of_times(desk: Path, file: tuple[str, bytes, str]) -> None:
    look(*file)
