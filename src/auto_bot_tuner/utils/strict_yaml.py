"""YAML for settings: plain mappings only, and nothing is swallowed silently.

Plain YAML lets a key stand twice (the last one wins without a word) and lets a few lines of aliases grow to gigabytes
in memory. In a file of settings both are accidents or attacks, so both are refused, with the line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from auto_bot_tuner.utils.errors import UsageError, is_utf8, one_line

MAX_BYTES = 200_000  # a config is a page; a data set given by mistake should not be parsed for minutes


LONGEST = 40  # characters of a number
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
OCTAL = re.compile(r"[-+]?0[\d_]+$")  # 017 is 15 in YAML 1.1


class StrictLoader(yaml.SafeLoader):
    """SafeLoader (no Python objects) without aliases, tags and doubled keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.events.AliasEvent):
            raise refused("aliases (*name) are not allowed", event.start_mark)
        if tag := getattr(event, "tag", None):  # !!python/object and the like, but also an !!int of nothing
            tag = tag.replace("tag:yaml.org,2002:", "!!")
            raise refused(f"tags ({tag}) are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise refused(f"key {key!r} is not a word", key_node.start_mark)
            if key in seen:
                raise refused(f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        if not is_utf8(node.value):  # in quotes "\ud800" can be written
            raise refused(f"{node.value!r} is not UTF-8", node.start_mark)
        if node.tag in NUMBERS and (":" in node.value or OCTAL.match(node.value) or len(node.value) > LONGEST):
            problem = f"{node.value[:LONGEST]} is no plain number (to the base of 60 or 8, or too long): write one"
            raise refused(problem, node.start_mark)
        return super().construct_scalar(node)


def refused(problem: str, place: Any) -> yaml.YAMLError:
    """The error that `read_yaml` tells with its line."""
    return yaml.constructor.ConstructorError(None, None, problem, place)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UsageError: no such file, not readable as YAML, empty, no mapping, a doubled key, an alias.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # not by its size: a pipe has none
    except FileNotFoundError:
        raise UsageError(f"no config file {path}{_neighbours(path)}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path} is larger than a config can be ({MAX_BYTES:,} bytes): is it a data file?")
    values = _parsed(path, content)
    if not values:
        raise UsageError(f"{path} is empty: it needs the sections model, dataset, training (see configs/)")
    if not isinstance(values, dict):
        raise UsageError(
            f"{path} holds a {type(values).__name__}, not sections like `model:` and `training:` (see configs/)"
        )
    return values


def _parsed(path: Path, content: bytes) -> Any:
    try:
        return yaml.load(content.decode("utf-8"), Loader=StrictLoader)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file in UTF-8: is it a config?") from error
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply to be a config") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}{_where(error)}: {_what(error)}") from error
    except ValueError as error:  # of a number or a date: 2026-02-31
        raise UsageError(f"{path} holds a value that cannot be ({one_line(error)}): mend it, or quote it") from error


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def _what(error: yaml.YAMLError) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())


def _neighbours(path: Path) -> str:
    """The configs that do exist beside the missing one."""
    names = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    return f": {path.parent} holds {', '.join(names)}" if names else ""
