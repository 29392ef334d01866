"""Errors that a person can mend: one line with the cause and the cure.

The command line prints the message alone (no traceback without `--debug`) and exits with `exit_code`.
Anything else that escapes is a bug of ours, and looks like one.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from textwrap import shorten


class UserError(ValueError):
    """The work failed for a reason outside this code. The message says what is wrong and what to do."""

    exit_code = 1


class UsageError(UserError):
    """The command, the config or the arguments are wrong: nothing was started."""

    exit_code = 2


class Interrupted(UserError):
    """Ctrl-C (130) or SIGTERM (143) stopped the run; the message says how to go on."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def unexpected(error: BaseException) -> str:
    """A bug of ours or of a library in one line: its kind and all of its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


# What the system answers, and what to do about it.
CURES = {
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.ENOSPC: "free some space, or name another disk",
    errno.EDQUOT: "free some space, or name another disk",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n)",
}
LONGEST = 1000  # characters of a message: a path of 4,000 hides what was to be said of it


def refused_by_the_system(error: OSError) -> UserError | None:
    """What the machine does not allow or cannot do with a file, as the cause and the cure; None for anything else.

    There is no place that could not meet a full disk or a folder without permission, so this is told at the edge of
    the program, and elsewhere only where more can be said.
    """
    if error.errno is None or not isinstance(error.filename, (str, bytes)):
        return None  # libraries raise OSError for all sorts of things
    name = error.filename if isinstance(error.filename, str) else error.filename.decode(errors="replace")
    return UserError(f"{name}: {error.strerror}: {CURES.get(error.errno, 'check the path')}")


def shortened(message: str) -> str:
    """A message that can be read: the cause stands at its beginning, the cure at its end."""
    half = LONGEST // 2
    return message if len(message) <= LONGEST else f"{message[:half]} … {message[-half:]}"


# What no name has, and what a terminal would obey. A text of several lines (--system) may have their ends.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def check_words(words: Iterable[str]) -> None:
    """Words of a command that can be names of files, be printed, and be written into files of UTF-8.

    Raises:
        UsageError: one holds a control character, or bytes that are no UTF-8.
    """
    for word in words:
        if found := CONTROL.search(word):
            raise UsageError(f"{word[:80]!r} holds the control character {found[0]!r}: remove it, or rename the file")
        if not is_utf8(word):
            raise UsageError(f"{word[:80]!r} is not UTF-8: rename the file, or type it again")


def is_utf8(text: str) -> bool:
    """Whether a text can be written at all: not with half a surrogate pair in it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def one_line(error: BaseException) -> str:
    """The first line of a library's message: their messages run over many, ours may not."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return shorten(" ".join(lines[:2] if lines[0].endswith(":") else lines[:1]), 160, placeholder=" …").rstrip(".")
