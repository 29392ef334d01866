"""`label   text` on a terminal of any width: words are wrapped below their own beginning, paths and links never cut."""

from __future__ import annotations

import shutil
import textwrap

from auto_bot_tuner.utils.terminal import neutral

NARROWEST = 40


def labelled(label: str, text: str, width: int = 14) -> None:
    """Print one line, or as many as it takes."""
    columns = max(shutil.get_terminal_size().columns, NARROWEST)
    lines = textwrap.wrap(
        neutral(text), columns - width, break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
    for number, line in enumerate(lines or [""]):
        print(f"{label if number == 0 else '':{width}}{line}")
