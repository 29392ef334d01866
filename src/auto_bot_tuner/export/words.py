"""How an export says what it found: a word, then the fact, folded to 80 columns."""

from __future__ import annotations

import textwrap

INDENT = 12


def fact(word: str, text: str) -> str:
    """`text` under its `word`, in lines that fit a small terminal."""
    return textwrap.fill(
        text,
        width=80,
        initial_indent=f"{word:{INDENT}}",
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def commands(*lines: str) -> list[str]:
    """What to do next: never folded, as it is copied."""
    return [f"{'' if number else 'next':{INDENT}}{line}" for number, line in enumerate(lines)]
