"""The demo: every stage is measured on the same held-out prompts, and its table is written as API.md says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auto_bot_tuner.utils.errors import UserError
from commands import demo
from tests.models import gpt2_tokenizer, tiny_model


@pytest.fixture
def random_stages(monkeypatch, tmp_path):
    """Two stages that know nothing: the table and the measuring without any training."""

    def saved(name: str, seed: int) -> demo.Stage:
        folder = tmp_path / name
        tiny_model("gpt2", seed).save_pretrained(folder)
        gpt2_tokenizer().save_pretrained(folder)
        return demo.Stage(name, lambda arguments: str(folder), f"look at {name}.", "README.md")

    monkeypatch.setattr(demo, "STAGES", (saved("base", 0), saved("sft", 1)))
    monkeypatch.setattr(demo, "held_out_rows", lambda quick: ROWS)
    monkeypatch.setattr(demo, "MAX_NEW_TOKENS", 4)


ROWS = [
    {"task": "sum", "key": f"{i}+1", "instruction": f"What is {i} plus 1?", "input": "", "output": f"{i + 1}."}
    for i in range(6)
]


def test_the_json_holds_each_stage_with_shares_between_0_and_1(random_stages, tmp_path, capsys):
    path = tmp_path / "new" / "table.json"
    demo.run(demo.Arguments(json=str(path)))
    stages = json.loads(path.read_text())["stages"]
    assert [stage["name"] for stage in stages] == ["base", "sft"]
    for stage in stages:
        assert 0 <= stage["accuracy"] <= 1 and 0 <= stage["ended"] <= 1 and stage["seconds"] >= 0
        assert stage["prompts"] == len(ROWS)
    printed = capsys.readouterr().out
    assert "6 held-out prompts" in printed and "look at sft. Read README.md" in printed
    assert "What is 0 plus 1?" in printed


def test_a_file_that_cannot_be_written_is_known_before_the_work(random_stages, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "measure", lambda *_: pytest.fail("worked first"))
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "table.json", tmp_path):
        with pytest.raises(UserError, match="cannot write"):
            demo.run(demo.Arguments(json=str(path)))


def test_an_earlier_table_survives_a_demo_that_fails(random_stages, tmp_path, monkeypatch):
    def fails(*_):
        raise UserError("no model")

    monkeypatch.setattr(demo, "measure", fails)
    path = tmp_path / "table.json"
    path.write_text("an earlier table")
    with pytest.raises(UserError, match="no model"):
        demo.run(demo.Arguments(json=str(path)))
    assert path.read_text() == "an earlier table"
    with pytest.raises(UserError, match="no model"):
        demo.run(demo.Arguments(json=str(tmp_path / "new" / "table.json")))
    assert not (tmp_path / "new").exists()


def test_held_out_rows_are_the_test_split_and_the_quick_ones_have_every_task():
    rows, some = demo.held_out_rows(quick=False), demo.held_out_rows(quick=True)
    assert len(rows) >= 400 and 90 <= len(some) <= 110
    assert {row["task"] for row in some} == {row["task"] for row in rows}


def test_every_stage_names_a_file_that_exists():
    root = Path(demo.__file__).parent.parent
    for stage in demo.STAGES:
        assert (root / stage.read).is_file()


@pytest.mark.long
def test_the_whole_demo_teaches_the_tiny_model_to_answer_and_to_stop(tmp_path):
    path = tmp_path / "table.json"
    demo.run(demo.Arguments(json=str(path), output_dir=str(tmp_path / "demo")))
    base, sft = json.loads(path.read_text())["stages"]
    assert base["accuracy"] < 0.05
    assert sft["accuracy"] > 0.75 and sft["ended"] >= 0.98
