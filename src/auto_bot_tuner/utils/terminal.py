"""Text of unknown origin on a terminal.

A model can write any character, the escape codes of a terminal among them: those recolour the screen, move the cursor
over what stood there, retitle the window or, on some terminals, put commands into the input. What it writes is shown,
never obeyed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# C0 but newline and tab, DEL, C1 (8-bit escape codes), and the marks that reverse the direction of text.
CONTROL = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
# Escape becomes ␛ (U+241B): the C0 codes have pictures; for the others the replacement character stands.
PICTURES = {code: 0x2400 + code if code < 0x20 else 0xFFFD for code in CONTROL if chr(code) not in "\n\t"}


def neutral(text: str) -> str:
    r"""`text` with control characters made visible.

    >>> neutral("a\x1b[31mb\n")
    'a␛[31mb\n'
    """
    return text.translate(PICTURES)


class Unbroken:
    """A stream that is written on into nothing once its reader has gone away; else it is the stream that it wraps."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self.turn_away()
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            self.turn_away()

    def turn_away(self) -> None:
        """What is still in the buffer goes the same way, so that closing the stream does not complain either."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def outliving_its_reader() -> Iterator[None]:
    """Inside, work goes on where nobody reads its output any more: `train-sft … | head` must not cost the run."""
    stdout = sys.stdout
    sys.stdout = Unbroken(stdout)
    try:
        yield
    finally:
        sys.stdout = stdout
