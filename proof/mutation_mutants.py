"""The mutants of a source file: every small wrong edit that mutmut knows how to make in a function.

    a + b → a - b · < → <= · 1 → 2 · f(a, b) → f(b) or f(None, b) · x = y → x = None · a `case` left out · …

The operators are the library's. Ours is one thing only: it passes by functions with a decorator, as its own way of
running them could not reach those; ours can (`mutation_runner.py`), so decorators are hidden from it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import libcst as cst
from mutmut.mutation.file_mutation import create_mutations


class Mutant(NamedTuple):
    """One wrong edit."""

    function: str  # qualified name within the module
    line: int  # the first line that differs, from 1
    before: str  # the lines that differ, without indentation, …
    after: str  # … and what stands there now
    source: str  # the whole file with the edit


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All mutants of functions and methods in a file, in its order, each once; those that do not compile left out.

    What runs at import (constants, class bodies) has none: mutmut leaves it alone.
    """
    bare = cst.parse_module(source).visit(WithoutDecorators()).code
    module, mutations, _, _ = create_mutations(path, bare)
    names: dict[cst.CSTNode, tuple[str, cst.CSTNode]] = {}  # function → its name, and the statement of the module
    texts: dict[cst.CSTNode, tuple[int, str]] = {}  # statement → where its text begins, and the text
    end = 0
    for statement in module.body:
        names |= {function: (name, statement) for function, name in named_functions([statement])}
        text = module.code_for_node(statement)
        texts[statement] = bare.index(text, end), text
        end = texts[statement][0] + len(text)
    mutants: dict[str, Mutant] = {}
    for mutation in mutations:
        if (of := mutation.contained_by_top_level_function) not in names:
            continue
        name, statement = names[of]
        start, before = texts[statement]
        changed = statement.deep_replace(mutation.original_node, mutation.mutated_node)
        after = module.code_for_node(changed)
        whole = bare[:start] + after + bare[start + len(before) :]
        if whole not in mutants and whole != bare and compiles(after):
            line, removed, added = difference(before, after)
            mutants[whole] = Mutant(name, bare[:start].count("\n") + line, removed, added, whole)
    return list(mutants.values())


class WithoutDecorators(cst.CSTTransformer):
    """Empty lines where decorators of functions stood, so that line numbers stay."""

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        empty = [cst.EmptyLine(indent=False) for _ in updated_node.decorators]
        return updated_node.with_changes(decorators=[], leading_lines=[*updated_node.leading_lines, *empty])


def named_functions(body: Sequence[cst.CSTNode], prefix: str = "") -> Iterator[tuple[cst.CSTNode, str]]:
    """The functions of a module and the methods of its classes, with their qualified names."""
    for node in body:
        if isinstance(node, cst.FunctionDef):
            yield node, prefix + node.name.value
        elif isinstance(node, cst.ClassDef):
            yield from named_functions(node.body.body, f"{prefix}{node.name.value}.")


def difference(before: str, after: str) -> tuple[int, str, str]:
    """The first line that differs (from 1), and the lines that do, on both sides."""
    old, new = before.splitlines(), after.splitlines()
    edits = [
        edit for edit in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if edit[0] != "equal"
    ]
    removed = [line.strip() for _, a, b, _, _ in edits for line in old[a:b]]
    added = [line.strip() for _, _, _, a, b in edits for line in new[a:b]]
    return edits[0][1] + 1, "\n".join(removed), "\n".join(added)


def compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True
