"""`inspect` and the viewer: what is shown is what the trainer gets, and data cannot command the terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auto_bot_tuner.data.viewer import STYLES, describe, token_texts, token_view
from auto_bot_tuner.sft import InstructionDataset
from auto_bot_tuner.training.config import DatasetConfig
from auto_bot_tuner.utils.errors import UserError
from commands.inspect_data import Arguments, run
from tests.models import save_tiny_model

ROWS = [
    {"instruction": "Say ohé.", "output": "Ohé 🟢!"},
    {"instruction": "Ring \x1b]0;owned\x07 the \x1b[31mbell", "output": "\u202edone\x07"},
    {"instruction": "Count.", "output": "one two three four five six seven eight nine ten eleven twelve"},
]


@pytest.fixture
def dataset(gpt2_tokenizer: Any) -> InstructionDataset:
    return InstructionDataset(ROWS, gpt2_tokenizer, max_length=22)


def styled(dataset: InstructionDataset, index: int, kind: str) -> str:
    """The text of a row that has the style of `kind`."""
    view = token_view(dataset, index)
    return "".join(view.plain[span.start : span.end] for span in view.spans if span.style == STYLES[kind])


def test_colours_are_the_labels(dataset: InstructionDataset) -> None:
    assert styled(dataset, 0, "prompt") == "### Instruction:\nSay ohé.\n\n### Response:\n"
    assert styled(dataset, 0, "trained") == "⟦Ohé 🟢!⟧"
    assert styled(dataset, 0, "end") == "<|endoftext|>"


def test_cut_answers_show_what_was_cut(dataset: InstructionDataset) -> None:
    kept, cut = styled(dataset, 2, "trained"), styled(dataset, 2, "cut")
    assert kept == "⟦one two three four five six seven eight nine ten⟧"
    assert cut == "[cut: 3 tokens] eleven twelve<|endoftext|>"
    assert styled(dataset, 2, "end") == ""


def test_cut_prompts_and_turns_are_said(gpt2_tokenizer: Any) -> None:
    turns = [
        {"role": r, "content": c}
        for r, c in [("user", "a"), ("assistant", "b"), ("user", "c " * 30), ("assistant", "d")]
    ]
    view = token_view(InstructionDataset([{"messages": turns}], gpt2_tokenizer, 24, "chat"), 0).plain
    assert re.match(r"\[cut: 1 oldest turn\(s\), \d+ tokens of the prompt's start\]### Instruction:\n", view)


def test_escape_codes_are_shown_not_obeyed(dataset: InstructionDataset) -> None:
    dataset = InstructionDataset(ROWS, dataset.tokenizer)
    view = token_view(dataset, 1).plain + describe(dataset)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", view)
    assert "␛[31mbell" in view


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=60))
def test_token_texts_make_up_the_text(viewer_tokenizer: Any, text: str) -> None:
    """Also for characters that are split over several tokens, and for rows longer than the window."""
    text = (text + " ") * 3 + "."
    ids = viewer_tokenizer(text)["input_ids"]
    texts = token_texts(viewer_tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == viewer_tokenizer.decode(ids) == text


@pytest.fixture(scope="module")
def viewer_tokenizer(make_gpt2_tokenizer: Any) -> Any:
    return make_gpt2_tokenizer()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A GPT-2 of 0.4 M parameters, saved."""
    return save_tiny_model(tmp_path / "model", "gpt2", n_layer=1, n_head=1, n_embd=8, n_positions=64)


@pytest.fixture
def data_file(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def test_inspect_shows_rows_and_summary(model_folder: Path, data_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = DatasetConfig(name=data_file, max_length=22, eval_fraction=0)
    run(Arguments(model=str(model_folder), dataset=config, rows=1))
    out = capsys.readouterr().out
    assert "rows.jsonl line 1: 21 tokens, 7 trained" in out
    assert "│ Response│:│\n⟦Oh│é│" in out
    assert "rows     3 of 3" in out
    assert "cut      2 rows (prompt's start 1, answer's end 1)" in out
    assert "row 1" not in out


def test_losses_are_the_models(model_folder: Path, data_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The oracle: log-softmax written out, one position at a time."""
    from transformers import AutoTokenizer, GPT2LMHeadModel

    run(Arguments(model=str(model_folder), dataset=DatasetConfig(name=data_file, eval_fraction=0), rows=3, loss=True))
    out = capsys.readouterr().out
    model = GPT2LMHeadModel.from_pretrained(model_folder).eval()
    dataset = InstructionDataset(ROWS, AutoTokenizer.from_pretrained(model_folder))
    item = dataset[2]
    expected = []
    for t, label in enumerate(item["labels"].tolist()):
        if label != -100:
            logits = model(item["input_ids"][None, :t]).logits[0, -1].detach()
            expected.append(float(logits.exp().sum().log() - logits[label]))
    row = out.split("rows.jsonl line 3")[1]
    shown = [float(number) for number in re.findall(r"‹([\d.]+)›", row)]
    assert shown == pytest.approx(expected, abs=0.006)
    assert float(re.search(r"mean loss ([\d.]+) nats", row)[1]) == pytest.approx(
        sum(expected) / len(expected), abs=6e-4
    )  # type: ignore[index]


def test_bad_data_is_told_before_the_model_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"bad\.jsonl line 1"):
        run(Arguments(model="no/such-model", dataset=DatasetConfig(name=str(tmp_path / "bad.jsonl"))))
