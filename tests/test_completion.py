"""The shells complete: real bash, zsh and fish are asked what they would offer."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import commands
import main
from auto_bot_tuner.utils.settings import all_settings
from commands.completion import all_commands

ASKED = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_main_py
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    """A folder with the script of each shell, as `completion SHELL` prints it."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            commands.run("completion", [shell])
        (folder / shell).write_text(printed.getvalue())
    return folder


def offered(scripts: Path, *words: str, folder: Path | None = None) -> list[str]:
    """What bash offers for the last of the words."""
    argv = ["bash", "--norc", "-c", ASKED, "bash", str(scripts / "bash"), *words]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=folder, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("program", [("python", "main.py"), ("python3", "./main.py"), ("./main.py",), ("main.py",)])
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("train-s",), ["train-sft"]),
        (("train-sft", "--learn"), ["--learning-rate"]),
        (("train-sft", "--model", "tiny", "--learn"), ["--learning-rate"]),
        (("train-sft", "--preset", ""), ["quick", "standard"]),
        (("train-sft", "--preset", "=", "q"), ["quick"]),  # bash takes "=" for a word of its own
        (("train-dpo", "--loss", "k"), ["kto"]),
        (("train-sft", "--no-lor"), ["--no-lora"]),
        (("train-sft", "--seed", ""), []),
        (("train-config", "configs/sft_tiny_quick.yaml", "--bet"), ["--beta"]),  # of whatever method the file is
        (("evaluate", "per"), ["perplexity"]),
        (("evaluate", "perplexity", "--datas"), ["--dataset"]),
        (("evaluate", "perplexity", "--learn"), []),
        (("completion", "z"), ["zsh"]),
        (("--he",), ["--help"]),
    ],
)
def test_bash_offers(scripts, program, words, wanted):
    assert offered(scripts, *program, *words) == wanted


def test_bash_offers_files_where_a_path_belongs_and_leaves_other_programs_alone(scripts, tmp_path):
    (tmp_path / "tin.jsonl").touch()
    (tmp_path / "main.py").touch()
    found = offered(scripts, "python", "main.py", "train-sft", "--dataset", "tin", folder=tmp_path)
    assert {"tin.jsonl", "tiny-instructions"} <= set(found)
    assert offered(scripts, "python", "other.py", "train-s") == []
    assert offered(scripts, "python", "ma") == []  # then bash completes files by itself (-o default)


def typed(program: list[str], lines: list[str], keys: str, wanted: str, home: Path) -> str:
    """What a shell shows in a pseudo-terminal: first `lines` are carried out, then `keys` are typed, up to `wanted`."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"HOME": str(home), "TERM": "dumb", "COLUMNS": "200"}
        os.execvp(program[0], program)
    try:
        os.write(terminal, "".join(f"{line}\n" for line in [*lines, "echo re''ady"]).encode())
        shown = until(terminal, "ready\r\n")
        os.write(terminal, keys.encode())
        return shown + until(terminal, wanted)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def until(terminal: int, wanted: str, patience: float = 30.0) -> str:
    shown, end = "", time.monotonic() + patience
    while wanted not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


def test_bash_asks_the_function_at_a_real_tab(scripts, tmp_path):
    """readline itself: what the other tests call by hand is what Tab calls."""
    wanted = "python main.py train-sft --learning-rate"
    shell = ["bash", "--norc", "--noprofile", "-i"]
    assert wanted in typed(
        shell, [f"source '{scripts / 'bash'}'"], "python main.py train-s\t--learn\t", wanted, tmp_path
    )


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("python main.py train-s", ["train-sft"]),
        ("./main.py train-sft --learn", ["--learning-rate"]),
        ("python main.py train-sft --preset ", ["quick", "standard"]),
        ("python main.py evaluate per", ["perplexity"]),
        ("python main.py evaluate perplexity --datas", ["--dataset"]),
        ("python other.py train-s", []),
    ],
)
def test_fish_offers(scripts, line, wanted, tmp_path):
    asked = f"source '{scripts / 'fish'}'; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", asked], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.split() == wanted, done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_completes_at_a_real_tab(scripts, tmp_path):
    wanted = "--learning-rate"
    keys = "python main.py train-s\t--learn\t"
    assert wanted in typed(["zsh", "-f", "-i"], [f"source '{scripts / 'zsh'}'"], keys, wanted, tmp_path)


def test_every_verb_and_flag_is_in_it():
    known = {command.path: {flag.word for flag in command.flags} for command in all_commands()}
    assert set(commands.VERBS) == set(next(iter(all_commands())).words)
    for verb in ("train-sft", "chat"):
        flags = {s.flag for s in all_settings(commands.arguments_class(verb)) if not s.positional}
        assert flags - {"--method"} <= known[verb]


def test_an_unknown_shell_is_one_line(capsys):
    assert main.main(["completion", "tcsh"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "bash" in err
