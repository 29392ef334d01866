"""Every field of every config and of every command's flags has a comment, and something reads it.

A setting that nothing reads is a lie.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
from pathlib import Path

import pytest

import commands
from auto_bot_tuner.utils.run_config import TRAINING_CLASSES, RunConfig, training_class
from auto_bot_tuner.utils.settings import settings_of
from commands.help import subcommands

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "auto_bot_tuner"


def config_classes() -> list[type]:
    """Every dataclass in a `config.py` of the package."""
    found = []
    for path in sorted(PACKAGE.glob("*/config.py")):
        module = importlib.import_module(f"auto_bot_tuner.{path.parent.name}.config")
        found += [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and value.__module__ == module.__name__
            and hasattr(value, "__dataclass_fields__")
        ]
    return found


def arguments_classes() -> list[type]:
    """What the flags of every verb and subcommand are made of, with the sections inside."""
    found: list[type] = []
    for verb in commands.VERBS:
        waiting = [commands.arguments_class(verb)]
        while waiting:
            arguments_class = waiting.pop()
            waiting += subcommands(arguments_class).values()
            if dataclasses.is_dataclass(arguments_class):
                found.append(arguments_class)
                sections = [type(setting.default) for setting in settings_of(arguments_class)]
                waiting += [section for section in sections if dataclasses.is_dataclass(section)]
    return found


CLASSES = list(dict.fromkeys([*config_classes(), *arguments_classes()]))
FIELDS = [(cls, setting) for cls in CLASSES for setting in settings_of(cls)]


def attributes_read() -> set[str]:
    """Names that follow a dot in the sources (`config.seed`); where they are defined does not count."""
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "commands").rglob("*.py")]
    sources = [path for path in files if path.name != "config.py"]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources]
    return {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_there_are_configs_to_look_at():
    names = {cls.__name__ for cls, _ in FIELDS}
    assert {"ModelConfig", "DatasetConfig", "TrainingConfig", "SFTConfig", "GenerationConfig"} <= names
    assert {"Arguments", "PerplexityArguments"} <= names


@pytest.mark.parametrize(
    ("cls", "setting"), FIELDS, ids=lambda value: getattr(value, "name", getattr(value, "__name__", ""))
)
def test_every_field_has_a_comment_that_is_a_sentence(cls, setting):
    is_sentence = setting.comment.endswith((".", "}")) or ": --" in setting.comment  # or ends with an example
    assert is_sentence, f"{cls.__name__}.{setting.name}: {setting.comment!r}"


def test_every_field_is_read_by_something():
    read = attributes_read()
    assert not {f"{cls.__name__}.{setting.name}" for cls, setting in FIELDS if setting.name not in read}


@pytest.mark.parametrize("method", TRAINING_CLASSES)
def test_flags_of_a_run_are_all_different(method):
    """Sections are not spelt out on the command line, so two sections must not share a name."""
    classes = [
        training_class(method),
        *(type(s.default) for s in settings_of(RunConfig) if s.name in ("model", "dataset")),
    ]
    flags = [setting.flag for cls in classes for setting in settings_of(cls)]
    assert len(flags) == len(set(flags))
