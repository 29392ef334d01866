"""Where things stand: the line that defines a function, the formula of its docstring, the file that holds a test."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
TEX = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)


class Place(NamedTuple):
    """A definition: the file relative to the repository's root, its line, and the name that the line defines."""

    file: str
    line: int
    name: str


def place_of(definition: Any) -> Place:
    """The line with `def` or `class` in the file as it is now, below any decorator and not in one."""
    definition = inspect.unwrap(definition)
    file = inspect.getsourcefile(definition)
    assert file is not None
    path, name = Path(file).resolve(), definition.__qualname__
    return Place(path.relative_to(ROOT).as_posix(), line_of(path.read_text(encoding="utf-8"), name), name)


def line_of(source: str, qualified_name: str) -> int:
    """Where `Class.method` or `function` is defined."""
    inside: ast.AST = ast.parse(source)
    for name in qualified_name.split("."):
        inside = next(node for node in ast.iter_child_nodes(inside) if isinstance(node, NAMED) and node.name == name)
    assert isinstance(inside, NAMED)
    return inside.lineno


def formula_of(definition: Any) -> str:
    """The first TeX of its docstring, else the displayed one of its file's: one fact has one home."""
    for home in (definition, sys.modules[definition.__module__]):
        for displayed, inline in TEX.findall(inspect.getdoc(home) or ""):
            if displayed or home is definition:
                return " ".join((displayed or inline).split()).rstrip(",.")
    raise ValueError(f"{definition.__qualname__} has no formula: give its claim one")


@cache
def tests_in(file: str) -> frozenset[str]:
    """The names of a file's test functions, without importing it."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, functions) and node.name.startswith("test_"))


def has_test(node_id: str) -> bool:
    file, _, name = node_id.partition("::")
    return (ROOT / file).is_file() and name in tests_in(file)
