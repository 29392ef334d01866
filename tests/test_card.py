"""The card of a model: whatever a model, a folder or an older run wrote stays text, and costs no weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from auto_bot_tuner.training import final
from auto_bot_tuner.training.card import CardFacts, data_row, model_card, samples_section
from auto_bot_tuner.training.card_words import code
from tests.training_runs import small_trainer


def test_what_ends_a_line_for_python_alone_ends_no_sample(tmp_path: Path) -> None:
    rows = [{"step": 0, "prompt": f"q{i}", "response": "a\u2028b\u0085c\x1cd", "ended": True} for i in range(2)]
    written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "samples.jsonl").write_text(written + '{"step": 5, "prom', encoding="utf-8")
    section = samples_section(tmp_path)
    assert "q0" in section and "q1" in section


def test_a_name_cannot_leave_its_place(tmp_path: Path) -> None:
    assert code("a`\n\n# b`<script>") == "`a' # b'<script>`"
    trainer = small_trainer(tmp_path / "run", max_steps=1)
    trainer.train()
    record = json.loads((tmp_path / "run/run.json").read_text())
    record["lineage"][0]["name"] = "evil`\n\n# <img src=x> heading"
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    card = model_card(trainer, {}, CardFacts(is_adapter_alone=False))
    outside = card.replace("`evil' # <img src=x> heading`", "")
    assert "\n# <img" not in card and not re.search(r"(?<!\\)<img", outside)


@pytest.mark.parametrize("data", [{}, {"rows": "many", "sha256": None}, {"rows": 3, "sha256": "abc"}])
def test_an_older_run_may_have_written_less(data: dict[str, object]) -> None:
    assert data_row("SFT, earlier", data, "").count("|") == 5


def test_weights_are_not_lost_for_their_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise KeyError("rows")

    monkeypatch.setattr(final, "model_card", broken)
    small_trainer(tmp_path / "run", max_steps=1).train()
    assert (tmp_path / "run/final/model.safetensors").is_file()
    assert "The card could not be written" in (tmp_path / "run/final/README.md").read_text()
