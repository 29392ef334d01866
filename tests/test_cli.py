"""The command line: every flag of API.md, one clear line for every mistake, nothing heavy before the work begins."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import commands
import main
from auto_bot_tuner.utils.arguments import one_line
from auto_bot_tuner.utils.errors import Interrupted, UsageError, UserError

ROOT = Path(__file__).parent.parent


def call(capsys, *argv: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `python main.py argv`, in this process."""
    try:
        code = main.main(list(argv))
    except SystemExit as stop:  # --help leaves this way
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def restore_signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_help_lists_the_verbs_and_each_has_its_help(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for verb in commands.VERBS:
        assert f"  {verb} " in out
        code, page, err = call(capsys, verb, "--help")
        assert code == 0 and page.startswith(f"usage: python main.py {verb} ") and err == ""


COMMON = (
    "--model",
    "--dataset",
    "--preset",
    "--output-dir",
    "--max-samples",
    "--batch-size",
    "--grad-accum",
    "--learning-rate",
    "--epochs",
    "--max-steps",
    "--max-length",
    "--no-lora",
    "--logging-steps",
    "--save-steps",
    "--seed",
    "--resume",
    "--dry-run",
)


@pytest.mark.parametrize("verb", ["train-sft", "train-config"])
def test_the_common_options_are_flags_of_every_train_verb(capsys, verb):
    _, page, _ = call(capsys, verb, "--help")
    assert not [flag for flag in COMMON if flag not in page]
    words = " ".join(page.split())
    assert "Peak learning rate. Empty: 2e-5" in words  # the config's comments, defaults and ranges
    assert "(default: 42; 0 or more)" in words


@pytest.mark.parametrize(
    "argv", [["--help"], ["train-sft", "--help"], ["train-sft", "--learning-rat", "1"], ["nonsense"]]
)
def test_help_and_mistakes_import_nothing_heavy(argv):
    code = (
        f"import sys; sys.argv = ['main.py', *{argv!r}]; import main\n"
        "try: main.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian-sft"], ["unknown command 'trian-sft'", "did you mean train-sft?"]),
        (["train-ppo-now"], ["unknown command"]),
        (["xyz"], ["there are train-sft"]),
        ([], ["the menu needs a terminal"]),
        (["train-sft", "--learning-rat", "1"], ["--learning-rat", "did you mean --learning-rate?"]),
        (["train-sft", "--learning-rat=1"], ["did you mean --learning-rate?"]),
        (["train-sft", "--learning-rate", "fast"], ["--learning-rate", "FLOAT", "'fast'"]),
        (["train-sft", "--learning-rate", "-1"], ["--learning-rate should be greater than 0, not -1.0"]),
        (["train-sft", "--batch-size", "0"], ["--batch-size should be greater than 0, not 0"]),
        (["train-sft", "--batch-size", "2.5"], ["--batch-size", "2.5"]),
        (["train-sft", "--batch-size"], ["--batch-size"]),
        (["download", "model"], ["missing: id (flags: python main.py download model --help)"]),
        (["train-sft", "--epochs", "nan"], ["--epochs should be a finite number"]),
        (["train-sft", "--grad-accum", "-4"], ["--grad-accum should be greater than 0, not -4"]),
        (["train-sft", "--precision", "fp8"], ["'fp8'", "bf16"]),
        (["train-sft", "gpt2"], ["gpt2"]),
        (["train-sft", "--preset", "fast"], ["no preset 'fast'", "quick, standard"]),
        (
            ["train-dpo", "--dataset", "tiny-preferences", "--reference", "none"],
            ["error: loss sigmoid compares with a reference: reference none is for simpo and orpo (flags: "],
        ),
        (
            ["train-dpo", "--dataset", "tiny-preferences", "--format-type", "alpaca"],
            ["format_type alpaca is for SFT: for DPO rows are preferences"],
        ),
        (["train-reward", "--dataset", "tiny-preferences", "--objective", "pair"], ["'pair'", "pairs"]),
        (["train-config"], ["name the config file"]),
        (["train-config", "configs/missing.yaml"], ["no config file configs/missing.yaml"]),
        (["train-config", "configs/sft_tiny_quick.yaml", "--seeed", "1"], ["did you mean --seed?"]),
        (["train-config", "configs/sft_tiny_quick.yaml", "--type", "dpo"], ["config for sft, not for dpo"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(capsys, argv, words):
    code, out, err = call(capsys, *argv)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["evaluate", "perplexity", "--model", "tiny"],
            "missing: --dataset (flags: python main.py evaluate perplexity --help)",
        ),
        (["train-sft", "--learning-rte", "1"], "did you mean --learning-rate?"),
        (["train-sft", "--epochs", "x"], "--epochs"),
    ],
)
def test_wrong_usage_at_a_terminal_with_colours_is_the_same_line(monkeypatch, capsys, argv, words):
    """There tyro paints its box, and between the codes nothing is found."""
    plain = call(capsys, *argv)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert call(capsys, *argv) == plain
    assert words in plain[2] and "\x1b" not in plain[2]


def test_the_preset_lies_below_the_flags():
    arguments = commands.parse(
        "train-sft", ["--model", "tiny", "--preset", "quick", "--batch-size", "7", "--no-resume"]
    )
    assert (arguments.model.name, arguments.dataset.name) == ("tiny", "tiny-instructions")  # from sft_tiny_quick.yaml
    assert arguments.training.batch_size == 7


def test_a_mix_by_flags_replaces_the_name_below_and_a_name_the_mix(tmp_path):
    mix = commands.parse("train-sft", ["--preset", "quick", "--mix", "a.jsonl", "0.5", "tiny-instructions", "0.5"])
    assert (mix.dataset.name, mix.dataset.mix) == ("", {"a.jsonl": 0.5, "tiny-instructions": 0.5})
    assert mix.dataset.format_type == "auto"
    path = tmp_path / "sft_mix.yaml"
    path.write_text("dataset: {mix: {a.jsonl: 1, b.jsonl: 2}}")
    named = commands.parse("train-config", [str(path), "--dataset", "c.jsonl"]).dataset
    assert (named.name, named.mix) == ("c.jsonl", {})


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--learning-rate", "1e-4"], "sft_mine.yaml"),
        (["--learning-rate", "1e-4", "--overwrite"], "sft_mine.yaml"),
        (["--learning-rate", "1e-4"], "without_suffix"),
        (["--learning-rate=1e-4"], "without_suffix"),
    ],
)
def test_flags_may_stand_before_the_config_file(tmp_path, flags, name):
    path = tmp_path / name
    path.write_text("method: sft\ntraining: {seed: 7}")
    arguments = commands.parse("train-config", [*flags, str(path)])
    assert (arguments.path, arguments.training.seed, arguments.training.learning_rate) == (str(path), 7, 1e-4)


def test_a_model_without_presets_of_its_own_takes_the_general_ones():
    arguments = commands.parse("train-sft", ["--model", "my/llama", "--preset", "quick", "--dataset", "rows.jsonl"])
    assert (arguments.model.name, arguments.dataset.name) == ("my/llama", "rows.jsonl")
    assert arguments.dataset.max_samples == 500  # sft_gpt2_quick.yaml


def test_flags_and_yaml_describe_the_same_run():
    by_file = commands.parse("train-config", ["configs/sft_tiny_quick.yaml", "--epochs", "2", "--lora"])
    by_flags = commands.parse("train-sft", ["--model", "tiny", "--preset", "quick", "--epochs", "2", "--lora"])
    for section in ("method", "model", "dataset", "training"):
        assert getattr(by_file, section) == getattr(by_flags, section)


def test_a_preset_fills_what_the_file_leaves_open(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("training: {seed: 7}\n")
    arguments = commands.parse("train-config", [str(path), "--type", "sft", "--model", "tiny", "--preset", "quick"])
    assert (arguments.training.seed, arguments.training.batch_size, arguments.model.name) == (7, 32, "tiny")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (UserError("the data is gone"), 1),
        (UsageError("wrong flag"), 2),
        (Interrupted("saved; go on with --resume", 143), 143),
        (KeyboardInterrupt(), 130),
        (main.Terminated(), 143),
        (RuntimeError("a\nbug"), 1),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_exit_codes_and_one_line_whatever_escapes(capsys, error, exit_code):
    def work() -> int:
        raise error

    assert main.guarded(work, debug=False) == exit_code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err


def test_what_an_error_quotes_does_not_drive_the_terminal(capsys):
    def work() -> int:
        raise UserError("the template says: \x1b]0;owned\x07\x1b[31mred")

    assert main.guarded(work, debug=False) == 1
    assert "\x1b" not in (err := capsys.readouterr().err) and "owned" in err


def test_debug_shows_the_traceback(capsys):
    code, _, err = call(capsys, "train-config", "configs/missing.yaml", "--debug")
    assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("error: no config file")


def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(
        f"'{sys.executable}' main.py train-sft --help | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("usage:")


def test_nor_is_it_where_rich_prints():
    work = "[Console().print(i) for i in range(99999)] and 9"
    many = f"from rich.console import Console; import main, sys; sys.exit(main.guarded(lambda: {work}, False))"
    done = subprocess.run(
        f"'{sys.executable}' -c '{many}' | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "" and done.stdout == "0\n"


def test_an_exit_that_a_library_asks_for_is_its_own():
    with pytest.raises(SystemExit, match="3"):
        main.guarded(lambda: sys.exit(3), debug=False)


def test_an_interpreter_without_the_packages_goes_on_with_the_environment_or_says_what_to_do(tmp_path):
    """`-S -I` leaves this interpreter without site-packages: the state of a shell where nothing is activated."""
    (tmp_path / "main.py").write_text((ROOT / "main.py").read_text())
    bare = [sys.executable, "-S", "-I", "main.py", "chat", "x"]
    missing = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True)
    assert missing.returncode == 1
    assert (
        missing.stderr == "error: the packages are not installed: run `make install` in the folder of main.py first\n"
    )

    if os.name == "posix":
        environment = tmp_path / ".venv" / "bin" / "python"
        environment.parent.mkdir(parents=True)
        environment.write_text('#!/bin/sh\necho "went on with $*"\n')
        environment.chmod(0o755)
        went_on = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True)
        assert went_on.returncode == 0
        assert went_on.stdout.startswith("went on with ") and went_on.stdout.endswith("main.py chat x\n")


def test_a_box_that_tyro_draws_differently_one_day_still_becomes_a_line():
    assert (
        one_line("╭─ New title ─╮\n│ Something else is wrong. │\n╰─────────────╯\n", "p")
        == "something else is wrong (flags: p --help)"
    )
    assert one_line("plain text\nof two lines", "p").startswith("plain text of two lines")


def test_training_goes_on_where_nobody_reads_its_output_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """`train-sft … | head` closes the pipe after ten lines: the run is worth more than its words."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr("commands.parse", lambda verb, argv: None)
        said = []

        def work(arguments: object) -> None:
            for step in range(3):
                print("step", step, flush=True)
                said.append(step)

        monkeypatch.setattr(importlib.import_module("commands.train_sft"), "run", work)
        commands.run("train-sft", [])
        assert said == [0, 1, 2] and sys.stdout is stdout
        monkeypatch.undo()


def test_a_command_that_only_tells_ends_with_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(os.dup(1), "w") as spare, os.fdopen(writer, "w", buffering=1) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr("commands.parse", lambda verb, argv: None)
        monkeypatch.setattr(importlib.import_module("commands.inspect_data"), "run", lambda _: print("a row"))
        with pytest.raises(BrokenPipeError):
            commands.run("inspect", [])
        os.dup2(spare.fileno(), stdout.fileno())  # what is in its buffer must go somewhere when it closes
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["evaluate", "accuracy", "--model", "tiny", "--limit", "5"],
            "unrecognized options: --limit, 5; --limit belongs to",
        ),
        (["evaluate", "perp", "--model", "tiny"], "evaluate has no 'perp': did you mean perplexity?"),
        (["evaluate", "accuracy", "--model", "tiny", "--max-sampels", "5"], "did you mean --max-samples?"),
        (["download", "modle", "gpt2"], "did you mean model?"),
        (["train-sft", "--mix", "a.jsonl0.1", "b.jsonl", "1"], "--mix takes names and numbers in turns"),
        (["chat", "tiny", "--temperature", "hot"], "--temperature needs a number, not 'hot'"),
    ],
)
def test_what_newcomers_mistype_is_understood(capsys, argv, words):
    code, _, err = call(capsys, *argv)
    assert code == 2 and words in err and err.count("\n") == 1 and "applied to" not in err


def test_the_version_is_told(capsys):
    assert call(capsys, "--version")[:2] == (0, "auto_bot_tuner 0.1.0\n")
