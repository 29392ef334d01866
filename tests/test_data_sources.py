"""Sources and formats: every place a row may come from, and one clear line for every way it can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auto_bot_tuner.data import hub, sources
from auto_bot_tuner.data.formats import canonical, drop_reason, recognise
from auto_bot_tuner.data.sources import load_rows, load_split
from auto_bot_tuner.training.config import DatasetConfig
from auto_bot_tuner.utils.errors import UsageError, UserError

ALPACA = [{"instruction": f"Say {i}.", "input": "", "output": f"It is {i}."} for i in range(40)]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path) -> Path:
    import csv

    with path.open("w", newline="", encoding="utf-8-sig") as file:  # Excel writes a BOM
        writer = csv.DictWriter(file, ["instruction", "input", "output"])
        writer.writeheader()
        writer.writerows(ALPACA)
    return path


def write_parquet(path: Path) -> Path:
    import datasets

    datasets.Dataset.from_list(ALPACA).to_parquet(path)
    return path


def write_saved(path: Path) -> Path:
    import datasets

    rows = datasets.Dataset.from_list(ALPACA)
    datasets.DatasetDict({"train": rows, "test": rows.select([0, 1])}).save_to_disk(path)
    return path


def write_json(path: Path) -> Path:
    path.write_text(json.dumps(ALPACA, indent=1))
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", lambda path: write_jsonl(path, ALPACA)),
        ("b.json", lambda path: write_jsonl(path, ALPACA)),  # JSON lines by another name
        ("c.json", write_json),
        ("d.csv", write_csv),
        ("e.parquet", write_parquet),
        ("saved", write_saved),
    ],
)
def test_every_source_gives_the_same_rows(tmp_path: Path, name: str, write: Callable[[Path], Path]) -> None:
    rows = load_split(str(write(tmp_path / name)))
    assert list(rows) == ALPACA
    assert rows[3:7] == ALPACA[3:7]
    assert rows.where(5).startswith((name, "saved train"))


def test_bundled_name() -> None:
    rows = load_split("tiny-instructions", "train[:5]")
    assert len(rows) == 5
    assert {"instruction", "output"} <= rows[0].keys()


def test_places_survive_sampling_and_blank_lines(tmp_path: Path) -> None:
    """ "row 17" of a sample helps nobody."""
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in ALPACA))  # row i stands on line 2i + 1
    train, held_out = load_rows(DatasetConfig(name=str(path), max_samples=10))
    assert held_out is not None
    for rows in (train, held_out):
        for i, row in enumerate(rows):
            assert rows.where(i) == f"a.jsonl line {2 * ALPACA.index(row) + 1}"


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", range(40)),
        ("train[:10]", range(10)),
        ("train[10:12]", range(10, 12)),
        ("train[-3:]", range(37, 40)),
        ("train[25%:50%]", range(10, 20)),
        ("train[:10%]", range(4)),
    ],
)
def test_split_syntax(tmp_path: Path, split: str, expected: range) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ALPACA)
    assert list(load_split(str(path), split)) == [ALPACA[i] for i in expected]


def test_held_out_rows_are_a_part(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ALPACA)
    train, held_out = load_rows(DatasetConfig(name=str(path), eval_fraction=0.2))
    assert held_out is not None
    assert len(held_out) == 8
    assert sorted([*train, *held_out], key=ALPACA.index) == ALPACA
    again, _ = load_rows(DatasetConfig(name=str(path), eval_fraction=0.2))
    assert list(again) == list(train)  # seeded


def test_rows_that_open_alike_stay_on_one_side(tmp_path: Path) -> None:
    """Threads of one tree share their first question: a sister in evaluation would ask what was told."""
    threads = [
        {
            "messages": [
                {"role": "user", "content": f"Question {i // 4}"},
                {"role": "assistant", "content": f"Answer {i}"},
            ]
        }
        for i in range(80)
    ]
    train, held_out = load_rows(DatasetConfig(name=str(write_jsonl(tmp_path / "a.jsonl", threads)), eval_fraction=0.25))
    assert held_out is not None
    questions = [{row["messages"][0]["content"] for row in rows} for rows in (train, held_out)]
    assert questions[0] & questions[1] == set()
    assert len(held_out) == 20


def test_sample_leaves_max_samples_to_train_on(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ALPACA)
    train, held_out = load_rows(DatasetConfig(name=str(path), max_samples=30, eval_fraction=0.1))
    assert held_out is not None
    assert (len(train), len(held_out)) == (30, 3)
    assert [ALPACA.index(row) for row in train] == sorted(ALPACA.index(row) for row in train)  # in the source's order
    assert not [row for row in train if row in list(held_out)]


def test_own_evaluation_split_is_used(tmp_path: Path) -> None:
    path = write_saved(tmp_path / "saved")
    train, held_out = load_rows(DatasetConfig(name=str(path)))
    assert held_out is not None
    assert (len(train), len(held_out)) == (40, 2)
    assert load_rows(DatasetConfig(name=str(path), eval_fraction=0))[1] is None


def test_mix_has_the_shares_asked_for_and_no_row_twice(tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "!"}]} for i in range(100)
    ]
    mix = {str(write_jsonl(tmp_path / "a.jsonl", ALPACA)): 1.0, str(write_jsonl(tmp_path / "c.jsonl", chats)): 3.0}
    train, _ = load_rows(DatasetConfig(mix=mix, eval_fraction=0))
    kinds = [recognise(row) for row in train]
    assert kinds.count("chat") == 100  # the scarcer one, for its weight, is used up
    assert kinds.count("alpaca") == 33
    assert len({json.dumps(row) for row in train}) == len(train)


# --- wrong data: one line, with the place and the cure ------------------------------------------------------------

BAD_FILES: dict[str, tuple[bytes, str]] = {
    "broken.jsonl": (b'{"text": "a"}\n\n{"text": \n', r"broken\.jsonl line 3: broken JSON"),
    "latin.jsonl": ('{"text": "a"}\n{"text": "caf\u00e9"}\n'.encode("latin1"), r"line 2: byte 0xe9 .* not UTF-8"),
    "empty.jsonl": (b"\n\n", "holds no rows"),
    "empty.json": (b"[]", "holds no rows"),
    "broken.json": (b'[{"text": "a"},\n {"text": }]', r"broken\.json: broken JSON .*line 2"),
    "deep.jsonl": (b"[" * 200_000 + b"\n", "line 1"),
    "short.csv": (b"instruction,output\nSay it\n", r"line 2: not 2 cells"),
    "long.csv": (b"instruction,output\na,b,c\n", r"line 2: not 2 cells"),
    "quote.csv": (b'text\n"never closed\n', r"broken CSV"),
    "no.parquet": (b"PAR1 this is none", "no readable parquet"),
    "notes.txt": (b"hello", "not understood"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path: Path, name: str) -> None:
    content, expected = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected) as error:
        load_rows(DatasetConfig(name=str(tmp_path / name)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "nowhere/at/all.jsonl"}, "no such file"),
        ({"name": "missing.csv"}, "no such file"),
        ({}, "no data set given"),
        ({"name": "a.csv", "mix": {"b.csv": 1.0}}, "leave one out"),
        ({"mix": {"b.csv": 1.0}, "format_type": "alpaca"}, "format_type auto"),
        ({"name": "tiny-instructions", "split": "valid"}, "has no split 'valid', only train, test"),
        ({"name": "tiny-instructions", "split": "train[a:b]"}, "not understood"),
        ({"name": "tiny-instructions", "split": "train[5:5]"}, "holds no rows"),
        ({"name": "."}, "not one saved by datasets"),
    ],
)
def test_bad_settings(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as error:
        load_rows(DatasetConfig(**settings))
    assert "\n" not in str(error.value)


def test_damaged_saved_folder(tmp_path: Path) -> None:
    path = write_saved(tmp_path / "saved")
    (path / "train" / "state.json").write_text("{")
    with pytest.raises(UserError, match="save it again"):
        load_split(str(path))


def chat(*turns: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "format_type", "expected"),
    [
        ({"question": "a", "answer": "b"}, "auto", "expected the columns .* found 'question, answer'"),
        ({"instruction": "a", "output": "b"}, "chat", "chat: messages or conversations; .* --format-type auto"),
        ({}, "auto", "found 'no column'"),
        (["a", "b"], "auto", "an object with named columns, found a list of 2"),
        ({"instruction": "a", "output": None}, "auto", "column output: expected text, found null"),
        ({"instruction": "a", "output": 7}, "auto", "column output: expected text, found the int 7"),
        ({"instruction": "a", "input": 3.5, "output": "b"}, "auto", "column input: expected text, found the float"),
        ({"text": "\ud800"}, "auto", "surrogate"),
        ({"messages": []}, "auto", "found an empty list"),
        ({"messages": "hello"}, "auto", "found text"),
        ({"messages": ["hello"]}, "auto", "message 0: expected a {role, content} object, found text"),
        (chat(("user", "a"), ("user", "b")), "auto", "message 1: role user after user, expected assistant"),
        (chat(("assistant", "a")), "auto", "message 0: role assistant after nothing, expected system or user"),
        (chat(("user", "a"), ("system", "b")), "auto", "role system after user"),
        (chat(("user", "a"), ("tool", "b")), "auto", "role 'tool' is unknown"),
        (chat(("user", "a"), (None, "b")), "auto", "role None is unknown"),
        (chat(("user", "a"), ("assistant", None)), "auto", "message 1, column content: expected text, found null"),
        (
            chat(
                ("user", ["a"]),
            ),
            "auto",
            "expected text, found a list of 1",
        ),
        ({"prompt": "a", "completion": None}, "auto", "column completion: expected text, found null"),
    ],
)
def test_bad_rows(row: Any, format_type: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as error:
        canonical(row, format_type, "data.jsonl line 7")
    assert str(error.value).startswith("data.jsonl line 7")
    assert "\n" not in str(error.value)


def test_values_in_messages_cannot_command_the_terminal() -> None:
    with pytest.raises(UserError) as error:
        canonical(chat(("\x1b[31muser", "a")), "auto", "row 0")
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "name", "turns"),
    [
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "alpaca", ["Add.\n\n### Input:\n1 2", "3"]),
        ({"instruction": "Hi", "input": "<noinput>", "output": "Ho"}, "alpaca", ["Hi", "Ho"]),
        ({"instruction": "Hi", "input": None, "output": "Ho"}, "alpaca", ["Hi", "Ho"]),
        ({"instruction": "Hi", "output": "Ho", "text": "all"}, "alpaca", ["Hi", "Ho"]),
        (chat(("user", "Hi"), ("assistant", "Ho")), "chat", ["Hi", "Ho"]),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, "chat", ["Hi", "Ho"]),
        ({"prompt": "Hi", "completion": "Ho"}, "prompt_completion", ["Hi", "Ho"]),
        ({"prompt": [{"role": "user", "content": "Hi"}], "completion": "Ho"}, "prompt_completion", ["Hi", "Ho"]),
    ],
)
def test_formats_are_recognised(row: dict[str, Any], name: str, turns: list[str]) -> None:
    assert canonical(row, "auto", "row 0") == canonical(row, name, "row 0")
    found, clean = canonical(row, "auto", "row 0")
    assert found == name
    assert clean["messages"] == [
        {"role": role, "content": content} for role, content in zip(["user", "assistant"], turns, strict=True)
    ]


def test_system_prompt_is_for_rows_without_one() -> None:
    own = chat(("system", "Mine."), ("user", "a"), ("assistant", "b"))
    assert canonical(own, "auto", "row 0", "Yours.")[1] == own
    assert canonical(chat(("system", ""), ("user", "a")), "auto", "", "Yours.")[1]["messages"][0]["content"] == "Yours."


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(("user", "a"), ("assistant", " \n")), "empty answer"),
        (chat(("user", ""), ("assistant", "a")), "empty prompt"),
        (chat(("user", "a")), "no assistant turn"),
        ({"text": " "}, "empty text"),
        (chat(("user", "a"), ("assistant", "b")), None),
    ],
)
def test_rows_with_nothing_to_teach(row: dict[str, Any], reason: str | None) -> None:
    assert drop_reason(row) == reason


# --- the hub ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_error", "expected"),
    [
        (lambda errors: ConnectionError("Couldn't reach 'a/b' on the Hub"), "cannot reach the hub .* local file"),
        (lambda errors: errors.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"), "not on the hub; check"),
        (lambda errors: errors.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."), "gated: accept"),
        (lambda errors: ValueError("Config name is missing.\nPick one: x, y"), "Config name is missing; .*--subset"),
        (lambda errors: errors.DatasetGenerationError("An error\noccurred"), "cannot be loaded .An error.: try again"),
    ],
)
def test_hub_failures_say_what_to_do(monkeypatch: pytest.MonkeyPatch, make_error: Any, expected: str) -> None:
    import datasets

    def fail(*_: Any) -> None:
        raise make_error(datasets.exceptions)

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(hub, "_is_reachable", lambda: True)
    with pytest.raises(UserError, match=expected) as error:
        hub.load_from_hub("a/b")
    assert "\n" not in str(error.value)


def test_hub_name_goes_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        sources, "load_from_hub", lambda *name: asked.append(name) or {"train": ALPACA, "test": ALPACA[:3]}
    )
    train, held_out = load_rows(DatasetConfig(name="yahma/alpaca-cleaned", subset="plain"))
    assert asked == [("yahma/alpaca-cleaned", "plain")]  # once, for both splits
    assert (len(train), len(held_out or [])) == (40, 3)
    with pytest.raises(UsageError):
        load_split("yahma/alpaca-cleaned", "train+test")


def test_a_conversation_of_nothing_but_an_empty_system_message_is_left_out() -> None:
    row = {"messages": [{"role": "system", "content": " "}]}
    for system_prompt in ("", "Be brief."):
        assert drop_reason(canonical(row, "auto", "row 0", system_prompt)[1]) == "no assistant turn"
