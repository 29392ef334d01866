"""What a setting's type lets one answer: words to choose from, a list, nothing at all, a range."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from auto_bot_tuner.utils.settings import Setting


def range_of(setting: Setting) -> str:
    """`above 0`, `0 or more, below 1`; empty where anything of the type will do."""
    words = {Gt: "above {}", Ge: "{} or more", Lt: "below {}", Le: "up to {}"}
    bounds = {type(mark): mark for mark in marks(setting.annotation)}
    limits = [(words[kind], getattr(bounds[kind], kind.__name__.lower())) for kind in words if kind in bounds]
    return ", ".join(text.format(f"{limit:,}") for text, limit in limits)


def marks(annotation: Any) -> list[Any]:
    """The metadata of a type, through Annotated, Field and Optional."""
    found = []
    for mark in getattr(annotation, "__metadata__", ()):
        found += mark.metadata if isinstance(mark, FieldInfo) else [mark]
    inner = typing.get_args(annotation)
    is_wrapped = hasattr(annotation, "__metadata__") or is_union(annotation)
    return found + [mark for each in inner if is_wrapped for mark in marks(each)]


def is_union(annotation: Any) -> bool:
    return isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union


def bare(annotation: Any) -> Any:
    """The type without its metadata and without None."""
    while hasattr(annotation, "__metadata__"):
        annotation = typing.get_args(annotation)[0]
    if is_union(annotation):
        inner = [each for each in typing.get_args(annotation) if each is not types.NoneType]
        return bare(inner[0]) if len(inner) == 1 else annotation
    return annotation


def is_optional(setting: Setting) -> bool:
    annotation = setting.annotation
    while hasattr(annotation, "__metadata__"):
        annotation = typing.get_args(annotation)[0]
    return is_union(annotation) and types.NoneType in typing.get_args(annotation)


def is_list(setting: Setting) -> bool:
    return typing.get_origin(bare(setting.annotation)) in (tuple, list, dict)


def words_to_choose(annotation: Any) -> tuple[Any, ...]:
    """The values of a Literal, or of a list of them."""
    kind = bare(annotation)
    if typing.get_origin(kind) in (tuple, list):
        kind = bare(typing.get_args(kind)[0])
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
