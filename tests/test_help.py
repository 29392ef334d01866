"""`--help` teaches: every setting of every verb stands there with its comment, its default and its range."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

import commands
import main
from auto_bot_tuner.utils.run_config import TRAINING_CLASSES, training_class
from auto_bot_tuner.utils.settings import Setting, all_settings, settings_of
from commands.examples import EXAMPLES
from commands.flag_values import default_in_words, range_in_words, value_in_words
from commands.help import page, subcommands


def pages() -> Iterator[tuple[str, Any]]:
    """(verb and subcommand, the class of its flags) of every page."""
    for verb in commands.VERBS:
        try:
            yield from pages_of(verb, commands.arguments_class(verb))
        except ImportError as error:
            if error.name != f"commands.{commands.VERBS[verb].module}":
                raise


def pages_of(path: str, arguments_class: Any) -> Iterator[tuple[str, Any]]:
    members = subcommands(arguments_class)
    if not members:
        yield path, arguments_class
    for name, member in members.items():
        yield from pages_of(f"{path} {name}", member)


PAGES = dict(pages())


def read(path: str, *more: str) -> str:
    verb, *rest = path.split()
    return page(verb, [*rest, *more, "--help"])


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def visible(arguments_class: Any) -> list[Setting]:
    return [s for s in all_settings(arguments_class) if s.name != "method" or not s.comment.startswith("What is")]


@pytest.mark.parametrize("path", PAGES)
def test_every_setting_is_there_with_comment_and_default(path):
    text = in_one_line(read(path))
    for setting in all_settings(PAGES[path]):
        if "Suppress" in repr(setting.annotation):
            continue
        assert (setting.positional and setting.name.upper() in text) or setting.flag in text or setting.positional
        assert in_one_line(setting.comment) in text, setting.name
    for setting in settings_of(PAGES[path]):  # those of sections are set anew by the section's own default
        if not dataclasses.is_dataclass(setting.default) and "Suppress" not in repr(setting.annotation):
            assert f"({default_in_words(setting.default)}" in text.split(in_one_line(setting.comment), 1)[1][:90]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_into_80_columns_and_shows_nothing_of_its_making(path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = read(path)
    assert max(map(len, text.splitlines())) < 80
    leaks = re.findall(r"\{None\}|\{True|None\)|\bSTR\b|\bFLOAT\b|\bINT\b|\bMISSING\b|Annotated|\x1b", text)
    assert not leaks
    assert text.startswith(f"usage: python main.py {path} ")


def test_what_most_people_set_comes_first_then_the_method_s_own():
    text = read("train-dpo")
    places = [text.index(word) for word in ("Most used:", "\n  --model ", "\n  --preset ", "\n  --learning-rate ")]
    places += [text.index(word) for word in ("Settings of DPO:", "\n  --beta ", "\n  --lora-r ", "\n  --adam-beta1 ")]
    assert places == sorted(places)
    for method in TRAINING_CLASSES:
        assert read(f"train-{method}").count("\n  --output-dir ") == 1


@pytest.mark.parametrize("method", TRAINING_CLASSES)
def test_every_number_of_a_method_has_a_range(method):
    for setting in settings_of(training_class(method)):
        if value_in_words(setting) in ("N", "X"):
            assert range_in_words(setting.annotation), setting.name


def test_ranges_are_those_that_are_checked():
    by_name = {setting.name: range_in_words(setting.annotation) for setting in settings_of(training_class("ppo"))}
    assert by_name["clip_ratio"] == "above 0, below 1" and by_name["gamma"] == "above 0, at most 1"
    assert by_name["batch_size"] == "1 or more" and by_name["learning_rate"] == "above 0"
    assert by_name["seed"] == "0 or more" and by_name["temperature"] == "0.01 or more"


def test_a_file_s_values_are_the_defaults_of_its_help():
    assert "(default: 32; 1 or more)" in in_one_line(read("train-config", "configs/sft_tiny_quick.yaml"))
    assert "(default: tiny)" in in_one_line(read("train-sft", "--preset", "quick", "--model", "tiny"))


@pytest.mark.parametrize("path", EXAMPLES)
def test_examples_parse(path):
    """What the help shows can be typed: every flag exists and takes what it is given."""
    verb = path.split()[0]
    if importlib.util.find_spec(f"commands.{commands.VERBS[verb].module}") is None:
        pytest.skip("not there yet")
    for example in EXAMPLES[path]:
        import shlex

        name, *argv = shlex.split(re.split(r"[>;|]", example)[0])
        assert name == verb
        if not any(word.endswith("/config.yaml") for word in argv):  # a run's own, which is not here
            commands.parse(verb, argv)


def test_every_verb_has_a_purpose_and_examples(capsys):
    named = [verb for group in main.PURPOSES.values() for verb in group]
    assert len(named) == len(set(named)) and set(named) <= set(commands.VERBS)
    page_of_all = main.overview(commands.VERBS)
    for verb in commands.VERBS:
        assert f"\n  {verb} " in page_of_all
    assert max(map(len, page_of_all.splitlines())) <= 80
    assert all("\nExamples:\n" in read(path) for path in PAGES if path in EXAMPLES or path.split()[0] in EXAMPLES)
