"""The last words of a run: its report, and next commands that can be typed as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import commands
from auto_bot_tuner.utils.run_config import TRAINING_CLASSES, load_run_config, save_run_config
from commands.closing import NEXT, closing_words, next_steps
from commands.training import run_recipe

SUMMARY = {"steps": 4, "tokens": 1000, "seconds": 2.0, "tokens_per_second": 500.0, "eval_loss": 0.5}


def run_folder(folder: Path, method: str, data: str, **training) -> Path:
    """A run's folder as far as the closing words read it; its final/."""
    values = {"model": {"name": "tiny"}, "dataset": {"name": data}, "training": training}
    save_run_config(folder / "config.yaml", load_run_config(None, values, method))
    return folder / "final"


@pytest.mark.parametrize("method", TRAINING_CLASSES)
def test_every_method_has_next_steps_whose_flags_exist(method, tmp_path):
    final = run_folder(
        tmp_path / "a run",
        method,
        "tiny-instructions",
        **({"reward": ["gold"]} if "po" in method and method != "dpo" else {}),
    )
    lines = [line.strip() for line in next_steps(final)]
    written = [line.removeprefix("python main.py ") for line in lines if line.startswith("python main.py ")]
    assert len(written) == len(NEXT[method]) >= 1
    for command in written:
        verb, *argv = shlex.split(command)
        assert str(final) in argv
        commands.parse(verb, argv)  # raises where a flag is unknown, missing or takes something else


def test_after_the_bundled_world_its_own_data_is_named_else_a_word_to_replace(tmp_path):
    assert "--dataset tiny-preferences" in "\n".join(next_steps(run_folder(tmp_path / "a", "sft", "tiny-instructions")))
    assert "--dataset PAIRS" in "\n".join(next_steps(run_folder(tmp_path / "b", "sft", "rows.jsonl")))


def test_the_report_is_named_where_there_is_one(tmp_path):
    final = run_folder(tmp_path / "run", "sft", "rows.jsonl")
    words = closing_words(SUMMARY | {"final": str(final)}, "talk to it: python main.py chat {}", ("loss",))
    assert "report.html" not in words and "evaluation loss 0.5000" in words
    (tmp_path / "run" / "report.html").touch()
    words = closing_words(SUMMARY | {"final": str(final)}, "talk to it: python main.py chat {}", ("loss",))
    assert f"The report is in {tmp_path / 'run' / 'report.html'}" in words


def test_a_run_that_no_command_started_has_no_next_steps(tmp_path):
    words = closing_words(SUMMARY | {"final": str(tmp_path / "final")}, "talk to it: python main.py chat {}", ())
    assert words.count("python main.py") == 1 and re.search(r"^The model is in .*final; talk to it", words, re.M)


def test_a_command_says_what_is_next_and_a_dry_run_does_not(tmp_path, capsys):
    run_folder(tmp_path, "sft", "tiny-instructions")
    argv = ["--model", "tiny", "--dataset", "tiny-instructions", "--output-dir", str(tmp_path)]
    for more, said in (([], True), (["--dry-run"], False)):
        run_recipe(lambda config, dry_run: None, commands.parse("train-sft", [*argv, *more]))
        assert ("Next:\n  compare it" in capsys.readouterr().out) == said
