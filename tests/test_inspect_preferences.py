"""`inspect --method dpo|reward`: pairs as the model gets them, and a report whose figures are counted by hand here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from auto_bot_tuner.data.preference_report import preference_report, word_overlap
from auto_bot_tuner.data.viewer import STYLES, describe, group_view, side_names
from auto_bot_tuner.dpo import PreferenceDataset
from auto_bot_tuner.rlhf import RewardModelDataset
from auto_bot_tuner.training.config import DatasetConfig
from auto_bot_tuner.utils.errors import UsageError, UserError
from commands.inspect_data import Arguments, run
from tests.models import save_tiny_model

ROWS = [
    {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven and eight.", "category": "wrong"},
    {"prompt": "Count.", "chosen": "one two three four five six seven eight", "rejected": "No.", "category": "rude"},
    {"prompt": "Talk.", "chosen": "a b c d e f g h i j", "rejected": "a b c d e f g h i k", "category": "wrong"},
]


def styled(view: Any, kind: str) -> str:
    return "".join(view.plain[span.start : span.end] for span in view.spans if span.style == STYLES[kind])


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A GPT-2 of 0.4 M parameters, saved."""
    return save_tiny_model(tmp_path / "model", "gpt2", n_layer=1, n_head=1, n_embd=8, n_positions=64)


@pytest.fixture
def data_file(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def shown(capsys: pytest.CaptureFixture[str], model: Path, **settings: Any) -> str:
    rows, loss, method = settings.pop("rows", 3), settings.pop("loss", False), settings.pop("method", "dpo")
    dataset = DatasetConfig(**{"eval_fraction": 0, **settings})
    run(Arguments(method=method, model=str(model), dataset=dataset, rows=rows, loss=loss))
    return capsys.readouterr().out


# --- the view -------------------------------------------------------------------------------------------------------


def test_the_prompt_is_shown_once_and_the_sides_by_their_labels(gpt2_tokenizer: Any) -> None:
    dataset = PreferenceDataset(ROWS, gpt2_tokenizer)
    prompt, (chosen, rejected) = group_view(dataset, 0)
    assert prompt.plain == styled(prompt, "prompt") == "### Instruction:\nName a colour.\n\n### Response:\n"
    assert (chosen.plain, rejected.plain) == ("⟦Blue.<|endoftext|>⟧", "⟦Seven and eight.<|endoftext|>⟧")
    assert styled(chosen, "end") == "<|endoftext|>"


def test_user_turns_inside_a_response_are_not_marked_as_trained(gpt2_tokenizer: Any) -> None:
    row = {
        "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
        "rejected": "\n\nHuman: a\n\nAssistant: e",
    }
    _, (chosen, _) = group_view(PreferenceDataset([row], gpt2_tokenizer), 0)
    assert chosen.plain == "⟦b<|endoftext|>⟧\n\n### Instruction:\nc\n\n### Response:\n⟦d<|endoftext|>⟧"


def test_what_was_cut_is_shown_on_its_side(gpt2_tokenizer: Any) -> None:
    prompt = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    row = {"prompt": prompt, "chosen": "yes", "rejected": "no " * 30 + "never"}
    dataset = PreferenceDataset([row], gpt2_tokenizer, max_length=32)
    view, (chosen, rejected) = group_view(dataset, 0)
    assert re.match(r"\[cut: \d+ tokens of the prompt's start\]### Instruction:\n", view.plain)
    assert styled(chosen, "cut") == ""
    assert styled(rejected, "cut").endswith(" never<|endoftext|>")
    assert styled(rejected, "end") == ""


def test_names_of_sides(gpt2_tokenizer: Any) -> None:
    ranked = {"prompt": "Hi", "responses": ["a", "b"], "scores": [1, 3]}
    pairs = PreferenceDataset([ROWS[0]], gpt2_tokenizer)
    assert side_names(pairs, 0) == ["chosen", "rejected"]
    assert side_names(PreferenceDataset([ranked], gpt2_tokenizer), 0) == ["chosen (score 3)", "rejected (score 1)"]
    assert side_names(RewardModelDataset([ranked], gpt2_tokenizer, kind="scores"), 0) == ["score 3", "score 1"]
    assert side_names(RewardModelDataset([ROWS[0]], gpt2_tokenizer, kind="rankings"), 0) == ["place 1", "place 2"]
    unpaired = PreferenceDataset([ROWS[0]], gpt2_tokenizer, unpaired=True)
    assert [side_names(unpaired, i) for i in range(2)] == [["good"], ["bad"]]
    assert "chosen: ⟦Blue.<|endoftext|>⟧\nrejected: ⟦Seven" in describe(pairs)
    assert describe(unpaired).endswith("good: ⟦Blue.<|endoftext|>⟧")


# --- the report -----------------------------------------------------------------------------------------------------


def test_length_bias_is_counted_in_tokens(gpt2_tokenizer: Any) -> None:
    """GPT-2's tokens with the end token: 3 and 5, 9 and 3, 11 and 11."""
    report = preference_report(PreferenceDataset(ROWS, gpt2_tokenizer))
    length = report.length
    assert (length.chosen_tokens, length.rejected_tokens) == (3 + 9 + 11, 5 + 3 + 11)
    assert (length.pairs, length.chosen_longer, length.equally_long) == (3, 1, 1)
    assert length.accuracy == pytest.approx((1 + 0.5) / 3)
    assert {name: bias.accuracy for name, bias in report.categories.items()} == {"wrong": 0.25, "rude": 1.0}
    assert "preferring the longer is right in 50.0%" in str(report)


def test_word_overlap_is_dices_coefficient() -> None:
    def say(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    assert word_overlap(say("a b c d"), say("b a x")) == pytest.approx(2 * 2 / 7)
    assert word_overlap(say("a a b"), say("a b b")) == pytest.approx(2 * 2 / 6)  # counted, not only found
    assert word_overlap(say("a b"), say("b a")) == 1
    assert word_overlap(say("a"), say("b")) == 0


def test_near_identical_repeated_and_contradictory_pairs(gpt2_tokenizer: Any) -> None:
    swapped = {"prompt": " count. ", "chosen": "No.", "rejected": ROWS[1]["chosen"]}
    report = preference_report(PreferenceDataset([*ROWS, ROWS[0], swapped], gpt2_tokenizer))
    assert report.near_identical == 1  # nine of ten words: 2 * 9 / 20
    assert (report.repeated, report.contradictory) == (1, 1)


def test_overlap_of_training_and_held_out(gpt2_tokenizer: Any) -> None:
    train = PreferenceDataset(ROWS, gpt2_tokenizer)
    held_out = [
        {"prompt": "Name  a Colour.", "chosen": "Red.", "rejected": "No."},
        ROWS[1],
        {"prompt": "What?", "chosen": "a", "rejected": "b"},
    ]
    report = preference_report(train, PreferenceDataset(held_out, gpt2_tokenizer))
    assert (report.held_out, report.known_prompts, report.known_pairs) == (3, 2, 1)
    assert "2 (66.7%) have a prompt that is trained on" in str(report)


# --- the command ----------------------------------------------------------------------------------------------------


def test_sides_stand_below_each_other_in_a_narrow_terminal(
    model_folder: Path,
    data_file: str,
    gpt2_tokenizer: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = shown(capsys, model_folder, name=data_file, rows=1)
    prompt = len(gpt2_tokenizer("### Instruction:\nName a colour.\n\n### Response:\n")["input_ids"])
    assert f"pairs.jsonl line 1: prompt {prompt} tokens, chosen 3, rejected 5 (wrong)" in out
    assert "chosen:\n⟦Blue│.│<|endoftext|>⟧\nrejected:\n⟦Seven│ and│ eight│.│<|endoftext|>⟧\n" in out
    assert "pair 1" not in out
    assert "pairs    3 from 3 rows" in out
    assert "         wrong        2                 25.0%" in out
    summary = out.split("all rows")[1]
    assert max(map(len, summary.splitlines())) <= 80


def test_sides_stand_side_by_side_in_a_wide_one(
    model_folder: Path, data_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    out = shown(capsys, model_folder, name=data_file, method="reward")
    assert re.search(r"^chosen +rejected *$", out, re.MULTILINE)
    assert re.search(r"^⟦Blue│\.│<\|endoftext\|>⟧ +⟦Seven│ and│ eight│\.│<\|endoftext\|>⟧ *$", out, re.MULTILINE)


def test_losses_are_the_models(model_folder: Path, data_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The oracle: log-softmax written out, one position at a time."""
    from transformers import AutoTokenizer, GPT2LMHeadModel

    out = shown(capsys, model_folder, name=data_file, rows=1, loss=True)
    model = GPT2LMHeadModel.from_pretrained(model_folder).eval()
    group = PreferenceDataset(ROWS, AutoTokenizer.from_pretrained(model_folder)).group(0)
    totals = []
    for ids in group.input_ids:
        losses = []
        for t in range(group.prompt_length, len(ids)):
            logits = model(ids[None, :t]).logits[0, -1].detach()
            losses.append(float(logits.exp().sum().log() - logits[ids[t]]))
        assert all(f"‹{loss:.2f}›" in out for loss in losses)
        totals.append(sum(losses))
    assert [float(number) for number in re.findall(r"(?:chosen|rejected), ([\d.]+) nats", out)] == pytest.approx(
        totals, abs=0.006
    )


def test_single_answers_are_shown_as_good_or_bad(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kto.jsonl"
    path.write_text('{"prompt": "Hi", "completion": "Hello", "label": true}\n' * 2)
    out = shown(capsys, model_folder, name=str(path))
    assert "good:\n⟦Hello│<|endoftext|>⟧" in out
    assert "answers  2 from 2 rows" in out


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "dpo", "format_type": "alpaca"}, UsageError, "format_type alpaca is for SFT"),
        ({"method": "reward", "train_on_prompt": True}, UsageError, "train_on_prompt is for SFT"),
        ({"method": "sft", "max_prompt_length": 64}, UsageError, "max_prompt_length is for preferences.*leave it out"),
        ({"max_length": 8}, UserError, "no pairs are left to learn from .3 no room for a response"),
        (
            {"name": "tiny-instructions"},
            UserError,
            "tiny-instructions train line 1: expected the columns of preference",
        ),
    ],
)
def test_bad_input_is_one_line(
    model_folder: Path, data_file: str, settings: dict[str, Any], error: type[UserError], message: str
) -> None:
    method = settings.pop("method", "dpo")
    dataset = DatasetConfig(**{"name": data_file, "eval_fraction": 0, **settings})
    with pytest.raises(error, match=message) as raised:
        run(Arguments(method=method, model=str(model_folder), dataset=dataset))
    assert "\n" not in str(raised.value)


def test_the_bundled_pairs(tiny_preferences: DatasetConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Not solvable by length, nothing leaks, and what is wrong with the rejected side is named."""
    run(Arguments(method="dpo", model="tiny", dataset=tiny_preferences, rows=0))
    out = capsys.readouterr().out
    found = re.search(r"preferring the longer is right in ([\d.]+)%", out)
    assert found is not None and 40 <= float(found[1]) <= 60
    assert "of these 0 (0.0%) have a prompt that is trained on" in out
    assert "wrong" in out and "rude" in out


@pytest.fixture
def tiny_preferences() -> DatasetConfig:
    return DatasetConfig(name="tiny-preferences", max_samples=600)
