"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence


def table(title: str, words: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A section: its heading, some words, its table."""
    return f"## {title}\n\n{words}\n\n{grid(header, rows)}"


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    return f"`{cell(text).replace('`', chr(39))}`" if text.strip() else "(nothing)"
