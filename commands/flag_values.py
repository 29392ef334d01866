"""What a flag takes, in words for people and for the shell's completion: read from the setting's annotation."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import annotated_types
import tyro

from auto_bot_tuner.utils.settings import Setting

# What a word stands for, by the setting's name: the types say no more than "text".
MODELS = ("model", "against", "reward_model", "checkpoint", "lora_checkpoint", "reference", "judge")
DATA = ("dataset", "eval_dataset", "sft_dataset", "mix")
FOLDERS = ("output_dir", "output")
FILES = ("path", "json_file", "json", "plot", "chat_template", "tasks")
SIMPLE = {int: "N", float: "X", str: "TEXT"}


def bare(annotation: Any) -> Any:
    """The type without pydantic's and tyro's marks, and without None."""
    while hasattr(annotation, "__metadata__"):
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        return bare(members[0])
    return annotation


def choices(setting: Setting) -> tuple[str, ...]:
    """The words that a setting takes, where it takes no others."""
    inner = bare(setting.annotation)
    if typing.get_origin(inner) is tuple:
        inner = bare(typing.get_args(inner)[0])
    if typing.get_origin(inner) is Literal:
        return tuple(str(value) for value in typing.get_args(inner))
    metavar = mark(setting, "metavar") or ""
    return tuple(metavar.split("|")) if "|" in metavar else ()


def kind(setting: Setting) -> str:
    """model, data, folder, file, or empty: what the shell can complete a text with."""
    name = setting.flag.removeprefix("--").replace("-", "_")
    kinds = {"model": MODELS, "data": DATA, "folder": FOLDERS, "file": FILES}
    return next((word for word, names in kinds.items() if name in names), "")


def value_in_words(setting: Setting) -> str:
    """
    `N`, `X`, `TEXT`, `MODEL`, `a|b`, `NAME ...`: what stands after the flag.
    """
    if metavar := mark(setting, "metavar"):
        return str(metavar)
    inner = bare(setting.annotation)
    many = typing.get_origin(inner) is tuple and not is_repeated(setting)
    if typing.get_origin(inner) in (dict, Mapping):
        return "DATA X ..."
    if typing.get_origin(inner) is tuple:
        inner = bare(typing.get_args(inner)[0])
    word = "|".join(choices(setting)) or kind(setting).upper() or SIMPLE.get(inner, "TEXT")
    return f"{word} ..." if many else word


def is_repeated(setting: Setting) -> bool:
    """Whether the flag is given again for each further value."""
    return tyro.conf.UseAppendAction in getattr(setting.annotation, "__metadata__", ())


def mark(setting: Setting, name: str) -> Any:
    """What a `tyro.conf.arg(…)` in the annotation says."""
    marks = getattr(setting.annotation, "__metadata__", ())
    return next((value for one in marks if (value := getattr(one, name, None))), None)


def default_in_words(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, bool):
        return f"default: {'on' if value else 'off'}"
    if value is None or (isinstance(value, str | tuple | dict) and not value):
        return "default: empty"
    if isinstance(value, float):
        return f"default: {value:g}"
    if isinstance(value, tuple):
        return f"default: {' '.join(map(str, value))}"
    return f"default: {value}"


def range_in_words(annotation: Any) -> str:
    """`above 0, below 1`: the bounds that pydantic checks."""
    bounds = dict(found_bounds(annotation))
    is_whole = bare(annotation) is int
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    words = []
    if low is not None:
        if is_whole:
            words.append(f"{low + ('gt' in bounds)} or more")
        else:
            words.append(f"above {low:g}" if "gt" in bounds else f"{low:g} or more")
    if high is not None and high < 2**31:
        words.append(f"below {high:g}" if "lt" in bounds else f"at most {high:g}")
    return ", ".join(words)


def found_bounds(annotation: Any) -> list[tuple[str, Any]]:
    """(gt, ge, lt or le; the number) of an annotation, inside of an optional one too."""
    found: list[tuple[str, Any]] = []
    for one in getattr(annotation, "__metadata__", ()):
        for constraint in [one, *getattr(one, "metadata", ())]:
            for name, bound in (
                ("gt", annotated_types.Gt),
                ("ge", annotated_types.Ge),
                ("lt", annotated_types.Lt),
                ("le", annotated_types.Le),
            ):
                if isinstance(constraint, bound):
                    found.append((name, getattr(constraint, name)))
    for inner in typing.get_args(annotation) if typing.get_origin(annotation) is not Literal else ():
        found += found_bounds(inner)
    return found
