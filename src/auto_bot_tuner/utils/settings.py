"""Reads a config dataclass as a list of settings: name, flag, comment, default.

The dataclasses are the single home of every setting. Help text, menu questions and error messages are made from what
stands there, the comment above the field included.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import re
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import tyro
from pydantic import ValidationError

HEADING = re.compile(r"# ---- (.+) ----")


@dataclass(frozen=True)
class Setting:
    """One field of a config dataclass, as people meet it."""

    name: str
    flag: str  # its spelling on the command line: --learning-rate
    comment: str
    default: Any
    annotation: Any
    positional: bool  # given without its flag
    group: str = ""  # the heading that it stands under in its class: # ---- heading ----


@cache
def settings_of(config_class: type) -> tuple[Setting, ...]:
    """The settings of a config dataclass, inherited ones first.

    Raises:
        TypeError: `config_class` is no dataclass.
    """
    hints = typing.get_type_hints(config_class, include_extras=True)
    comments: dict[str, str] = {}
    groups: dict[str, str] = {}
    for base in reversed(config_class.__mro__[:-1]):
        own_comments, own_groups = _comments(base)
        comments |= own_comments
        groups = own_groups | groups  # a default that is set anew stays where its setting belongs
    return tuple(
        Setting(
            name=field.name,
            flag=_flag(field.name, hints[field.name]),
            comment=comments.get(field.name, ""),
            default=_default(config_class, field),
            annotation=hints[field.name],
            positional=tyro.conf.Positional in getattr(hints[field.name], "__metadata__", ()),
            group=groups.get(field.name, ""),
        )
        for field in dataclasses.fields(config_class)
    )


def all_settings(arguments_class: Any) -> Iterator[Setting]:
    """The settings behind a command's flags: those inside sections, and of every member of a union of subcommands."""
    if isinstance(arguments_class, type) and dataclasses.is_dataclass(arguments_class):
        for setting in settings_of(arguments_class):
            section = type(setting.default)
            if dataclasses.is_dataclass(section):
                yield from all_settings(section)
            else:
                yield setting
    else:
        for member in typing.get_args(arguments_class):
            yield from all_settings(member)


def subcommands(arguments_class: Any) -> dict[str, Any]:
    """name -> class, of a union of them; empty for a class."""
    if inspect.isclass(arguments_class):
        return {}
    found = {}
    for member in typing.get_args(arguments_class):
        marks = getattr(member, "__metadata__", ())
        inner = typing.get_args(member)[0] if marks else member
        name = next((mark.name for mark in marks if getattr(mark, "name", None)), None)
        found[name or re.sub(r"(?<!^)(?=[A-Z])", "-", inner.__name__).lower()] = inner
    return found


def value_of(arguments: Any, setting: Setting) -> Any:
    """What a setting is set to, in `arguments` or in one of their sections; None where nothing is."""
    arguments_class: type = type(arguments)
    for own in settings_of(arguments_class):
        value = getattr(arguments, own.name)
        if own == setting:
            return value
        if dataclasses.is_dataclass(value) and setting in all_settings(type(value)):
            return value_of(value, setting)
    return None


def _default(config_class: Any, field: dataclasses.Field[Any]) -> Any:
    """The default, made anew where it has a factory; dataclasses.MISSING where the setting is required."""
    known_to_pydantic = getattr(config_class, "__pydantic_fields__", {}).get(field.name)
    if known_to_pydantic is not None:
        required = known_to_pydantic.is_required()
        return dataclasses.MISSING if required else known_to_pydantic.get_default(call_default_factory=True)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _flag(name: str, hint: Any) -> str:
    """`--learning-rate` for learning_rate; a `tyro.conf.arg(name=…)` in the annotation gives another spelling."""
    spelling = next((mark.name for mark in getattr(hint, "__metadata__", ()) if getattr(mark, "name", None)), name)
    return "--" + spelling.replace("_", "-")


def _comments(config_class: type) -> tuple[dict[str, str], dict[str, str]]:
    """Of each field of this class (not of its bases): the comment lines directly above it, joined to one line, and the
    heading that it stands under."""
    lines = textwrap.dedent(inspect.getsource(config_class)).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body
    headings = {i: found[1] for i, line in enumerate(lines) if (found := HEADING.fullmatch(line.strip()))}
    comments, groups = {}, {}
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno - 1
            while lines[first - 1].strip().startswith("#") and first - 1 not in headings:
                first -= 1
            name = node.target.id
            comments[name] = " ".join(line.strip(" #") for line in lines[first : node.lineno - 1])
            groups[name] = next((text for i, text in reversed(headings.items()) if i < first), "")
    return comments, groups


def nearest(word: str, words: Iterable[str]) -> str:
    """The most similar of `words`, or an empty string where none is similar."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)), "")


PLAINER = {"String should have at least 1 character": "should have a value"}  # pydantic's words: ours


def in_one_line(error: ValidationError, spelling: Mapping[str, str] | None = None) -> str:
    """What pydantic found wrong first: `epochs should be greater than 0, not -1`; `spelling` names fields by flags."""
    found = error.errors(include_url=False)[0]
    field = str(found["loc"][0]) if found["loc"] else ""
    inner = "".join(f"[{part}]" for part in found["loc"][1:] if isinstance(part, int))
    message = found["msg"].removeprefix("Input ").removeprefix("Value error, ")
    message = PLAINER.get(message, message)
    shown = "" if found["type"] in ("value_error", "missing") else f", not {found['input']!r}"
    return f"{(spelling or {}).get(field, field)}{inner} {message}{shown}".strip()
