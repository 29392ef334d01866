"""Every field of every config has a comment, and something reads it: a setting that nothing reads is a lie."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from auto_bot_tuner.utils.run_config import TRAINING_CLASSES, RunConfig, training_class
from auto_bot_tuner.utils.settings import settings_of

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


FIELDS = [(cls, setting) for cls in config_classes() for setting in settings_of(cls)]


def attributes_read() -> set[str]:
    """Names that follow a dot in the sources (`config.seed`); where they are defined does not count."""
    sources = [path for path in [*PACKAGE.rglob("*.py"), *(ROOT / "commands").glob("*.py")] if path.name != "config.py"]
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


@pytest.mark.parametrize(
    ("cls", "setting"), FIELDS, ids=lambda value: getattr(value, "name", getattr(value, "__name__", ""))
)
def test_every_field_has_a_comment_that_is_a_sentence(cls, setting):
    assert setting.comment.endswith((".", "}", "final/.")), f"{cls.__name__}.{setting.name}: {setting.comment!r}"


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
