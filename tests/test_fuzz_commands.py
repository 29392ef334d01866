"""Fuzz of the command line and of configs: any words for any verb, any YAML for train-config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import commands
from auto_bot_tuner.training.config import DatasetConfig, ModelConfig
from auto_bot_tuner.utils.run_config import SECTIONS, TRAINING_CLASSES, training_class
from auto_bot_tuner.utils.settings import all_settings, settings_of, subcommands
from commands.flag_values import choices
from tests.fuzzing import lawful, quick, texts, thorough, values

VERBS = sorted(commands.VERBS)
ODD_WORDS = [
    "",
    " ",
    "-",
    "--",
    "---",
    "=",
    "--=",
    "-1",
    "-0",
    "0",
    "1",
    "4",
    "007",
    "1e-4",
    "1_000",
    "٣",
    "½",
    "0x10",
    "1e400",
    "nan",
    "-inf",
    "9" * 30,
    "9" * 5000,
    "true",
    "None",
    "null",
    "[]",
    "{}",
    "tiny",
    "tiny-instructions",
    "tiny-preferences",
    ".",
    "..",
    "/",
    "/dev/null",
    "/nowhere/at/all",
    "~",
    "~nobody-here/x",
    "a\0b",
    "a" * 300,
    "x/" * 3000,
    "\ud800",
    "\udcff",
    "\x1b[2J",
    "\u202e",
    "日本",
    "a b",
    "rows.jsonl",
    "file.py:function",
    "1*exact_match",
    "regex:(",
    "regex:(a+)+$",
    "json:",
    "length:0",
    "train[",
    "train[10%:5%]",
    "--help=",
    "-h=1",
    "@file",
    "$(touch pwned)",
    "`touch pwned`",
    ";touch pwned",
]
words = st.one_of(st.sampled_from(ODD_WORDS), texts)


@st.composite
def lines(draw: Any, verbs: list[str]) -> list[str]:
    """A verb with some of its own flags, in any spelling and with any values."""
    verb = draw(st.sampled_from(verbs))
    arguments_class = commands.arguments_class(verb)
    argv = [verb]
    members = subcommands(arguments_class)
    if members:
        name = draw(st.sampled_from(list(members)))
        argv.append(draw(st.one_of(st.just(name), st.just(name), words)))
        arguments_class = members[name]
    own = list(all_settings(arguments_class))
    for setting in draw(st.lists(st.sampled_from(own), max_size=4)):
        value = draw(st.one_of(words, st.sampled_from(choices(setting) or ("4",)), st.just(str(setting.default))))
        flag = setting.flag
        form = draw(
            st.sampled_from(["two words", "two words", "=", "no", "upper", "underscores", "cut", "value", "many"])
        )
        argv += {
            "two words": [flag, value],
            "=": [f"{flag}={value}"],
            "no": [f"--no-{flag.strip('-')}"],
            "upper": [flag.upper(), value],
            "underscores": ["--" + flag.strip("-").replace("-", "_"), value],
            "cut": [flag[: draw(st.integers(1, len(flag)))], value],
            "value": [value],
            "many": [flag, value, draw(words), draw(words)],
        }[form]
    if draw(st.integers(0, 12)) == 1:
        argv.insert(draw(st.integers(0, len(argv))), draw(words))
    return argv


def parsed_only(verb: str, argv: list[str]) -> None:
    """Instead of `commands.run`: all that happens before the work."""
    commands.parse(verb, argv)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, with nothing of the user's home in reach."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def parse(argv: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "run", parsed_only)
        lawful(argv)
    assert not list(Path().iterdir())


@quick(40)
@given(lines(VERBS))
@example(["train-config", "\n\nHuman: hi\n\nAssistant: yes"])
@example(["chat", "\0"])
@example(["train-config", "\ud800.yaml"])
def test_any_command_line_is_parsed_or_refused(desk: Path, argv: list[str]) -> None:
    parse(argv)


@pytest.mark.long
@pytest.mark.timeout(7200)
@thorough(10_000)
@given(st.one_of(lines(VERBS), st.lists(words, min_size=1, max_size=6)))
def test_any_command_line_is_parsed_or_refused_thousands_of_times(desk: Path, argv: list[str]) -> None:
    parse(argv)


# --- what is parsed is done, where that takes no minutes -------------------------------------------------------------

# Of the verbs that train, `--dry-run`: everything but the steps. `demo`, `frontier` and `reward-hacking` take minutes.
DONE = [verb for verb in VERBS if verb not in ("demo", "frontier", "reward-hacking", "doctor")]
LIMITS = ["--max-samples", "8", "--max-length", "32", "--batch-size", "2", "--grad-accum", "1"]
START = {
    "train-sft": "--model tiny --dataset tiny-instructions --dry-run",
    "train-reward": "--model tiny --dataset tiny-preferences --dry-run",
    "train-dpo": "--model tiny --dataset tiny-preferences --dry-run",
    "train-ppo": "--model tiny --dataset tiny-prompts --reward-model nowhere --dry-run",
    "train-grpo": "--model tiny --dataset tiny-puzzles --reward ended --dry-run",
    "inspect": "--model tiny --dataset tiny-instructions",
}


def do(argv: list[str]) -> None:
    """The command, on little data where it takes that, and first what it needs."""
    verb, *rest = argv
    if verb in START:
        few = LIMITS if verb != "inspect" else LIMITS[:4]
        argv = [verb, *START[verb].split(), *few, *rest]
    lawful(argv)
    assert not Path("pwned").exists() and not Path("/tmp/pwned").exists()
    assert not list(Path().glob("**/*.part"))


@quick(10)
@given(lines(["inspect", "report", "completion", "download", "convert", "push", "evaluate", "train-config", "chat"]))
def test_any_command_line_is_done_or_refused(desk: Path, argv: list[str]) -> None:
    do(argv)


@pytest.mark.long
@pytest.mark.timeout(7200)
@thorough(2000)
@given(lines(DONE))
def test_any_command_line_is_done_or_refused_thousands_of_times(desk: Path, argv: list[str]) -> None:
    do(argv)


# --- configs ---------------------------------------------------------------------------------------------------------

ODD_YAML = [
    "5e-7",
    "1e-4",
    "0o17",
    "017",
    "0b11",
    "12:30:45",
    "2001-01-01",
    "2001-99-99",
    "2001-01-01T25:61:61Z",
    "yes",
    "off",
    "~",
    "null",
    ".nan",
    "-.inf",
    "9" * 5000,
    "0x" + "f" * 5000,
    "&a 1",
    "*a",
    "&a [*a]",
    "!!python/object/apply:os.system ['touch pwned']",
    "!!python/name:os.system",
    "!!binary '*'",
    "!!int x",
    "!!int ''",
    "!!float x",
    "!!bool x",
    "!!timestamp x",
    "!!set {a, b}",
    "!!omap [a: 1, a]",
    "!!pairs [a: 1, 3]",
    "!!null x",
    "!custom x",
    "{<<: {a: 1}}",
    "{<<: 3}",
    "{? [a, b] : c}",
    "{1: 2}",
    "{a: 1, a: 2}",
    "[1, 2",
    "'unclosed",
    "|\n  text\n more",
    "\t- x",
    "\x00",
    "\x1b[31m",
    "%TAG ! x",
    "--- a\n--- b",
    "\ud800",
    "\\ud800",
    '"\\ud800"',
    '"\\0"',
    "[" * 5000,
    "{a: " * 2000,
    "a: b: c",
    "=",
    "? ",
    "@x",
]
leaves = st.one_of(
    st.sampled_from(ODD_YAML),
    values.map(lambda value: json.dumps(value, ensure_ascii=True)),
    words.map(lambda word: json.dumps(word)),
)


@st.composite
def configs(draw: Any) -> tuple[str, str]:
    """(file name, YAML): mostly the known sections and keys, with anything below them."""
    method = draw(st.sampled_from(list(TRAINING_CLASSES)))
    classes = dict(zip(SECTIONS, (ModelConfig, DatasetConfig, training_class(method)), strict=True))
    lines = [draw(st.one_of(st.just(f"method: {method}"), leaves.map("method: {}".format)))]
    for section in draw(st.lists(st.sampled_from(SECTIONS), max_size=4)):
        if draw(st.integers(0, 5)) == 1:
            lines.append(f"{section}: {draw(leaves)}")
            continue
        lines.append(f"{section}:")
        for setting in draw(st.lists(st.sampled_from(settings_of(classes[section])), max_size=3)):
            default = st.just(json.dumps(setting.default, default=str))
            lines.append(f"  {setting.name}: {draw(st.one_of(leaves, default))}")
    if draw(st.integers(0, 4)) == 1:
        lines.insert(draw(st.integers(0, len(lines))), draw(st.one_of(leaves, texts)))
    return draw(st.sampled_from([f"{method}_x.yaml", "x.yaml", "x.yml", "config.txt"])), "\n".join(lines)


def read(name: str, text: str) -> None:
    """`train-config` of it, up to where the data is looked for."""
    content = text.encode("utf-8", "surrogatepass")
    Path(name).write_bytes(content)
    try:
        lawful(["train-config", name, "--dry-run", "--model", "nowhere/at/all", "--dataset", "nowhere.jsonl"])
        assert Path(name).read_bytes() == content and len(list(Path().iterdir())) == 1
    finally:
        for left in Path().iterdir():
            left.unlink()


@quick(30)
@given(configs())
@example(("sft_x.yaml", "method: !!int ''"))
@example(("sft_x.yaml", f"method: 0x{'f' * 5000}"))
@example(("sft_x.yaml", "model: {name: 2001-99-99}"))
@example(("sft_x.yaml", 'model: {name: "\\0"}'))
def test_any_config(desk: Path, config: tuple[str, str]) -> None:
    read(*config)


@pytest.mark.long
@pytest.mark.timeout(7200)
@thorough(10_000)
@given(st.one_of(configs(), values.map(lambda value: ("sft.yaml", yaml.safe_dump(value)))))
def test_any_config_thousands_of_times(desk: Path, config: tuple[str, str]) -> None:
    read(*config)
