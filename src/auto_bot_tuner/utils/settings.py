"""Reads a config dataclass as a list of settings: name, flag, comment, default.

The dataclasses are the single home of every setting. Help text, menu questions and error messages are made from what
stands there, the comment above the field included.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import textwrap
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError


@dataclass(frozen=True)
class Setting:
    """One field of a config dataclass, as people meet it."""

    name: str
    flag: str  # its spelling on the command line: --learning-rate
    comment: str
    default: Any
    annotation: Any


@cache
def settings_of(config_class: type) -> tuple[Setting, ...]:
    """The settings of a config dataclass, inherited ones first.

    Raises:
        TypeError: `config_class` is no dataclass.
    """
    hints = typing.get_type_hints(config_class, include_extras=True)
    comments = {name: text for base in reversed(config_class.__mro__[:-1]) for name, text in _comments(base).items()}
    return tuple(
        Setting(
            field.name,
            _flag(field.name, hints[field.name]),
            comments.get(field.name, ""),
            _default(field),
            hints[field.name],
        )
        for field in dataclasses.fields(config_class)
    )


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _flag(name: str, hint: Any) -> str:
    """`--learning-rate` for learning_rate; a `tyro.conf.arg(name=…)` in the annotation gives another spelling."""
    spelling = next((mark.name for mark in getattr(hint, "__metadata__", ()) if getattr(mark, "name", None)), name)
    return "--" + spelling.replace("_", "-")


def _comments(config_class: type) -> dict[str, str]:
    """The comment lines directly above each field of this class (not of its bases), joined to one line each."""
    lines = textwrap.dedent(inspect.getsource(config_class)).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body
    comments = {}
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno - 1
            while lines[first - 1].strip().startswith("#"):
                first -= 1
            comments[node.target.id] = " ".join(line.strip(" #") for line in lines[first : node.lineno - 1])
    return comments


def nearest(word: str, words: Iterable[str]) -> str:
    """The most similar of `words`, or an empty string where none is similar."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)), "")


def in_one_line(error: ValidationError, config_class: type, flags: bool) -> str:
    """What pydantic found wrong first, in the reader's spelling: `--epochs should be greater than 0, not -1`."""
    found = error.errors(include_url=False)[0]
    field = str(found["loc"][0]) if found["loc"] else ""
    by_name = {setting.name: setting.flag for setting in settings_of(config_class)}
    place = by_name.get(field, field) if flags else field
    inner = "".join(f"[{part}]" for part in found["loc"][1:] if isinstance(part, int))
    message = found["msg"].removeprefix("Input ").removeprefix("Value error, ")
    shown = "" if found["type"] in ("value_error", "missing") else f", not {found['input']!r}"
    return f"{place}{inner} {message}{shown}".strip()
