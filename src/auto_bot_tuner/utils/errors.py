"""Errors that a person can mend: one line with the cause and the cure.

The command line prints the message alone (no traceback without `--debug`) and exits with `exit_code`.
Anything else that escapes is a bug of ours, and looks like one.
"""

from __future__ import annotations

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


def one_line(error: BaseException) -> str:
    """The first line of a library's message: their messages run over many, ours may not."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return shorten(" ".join(lines[:2] if lines[0].endswith(":") else lines[:1]), 160, placeholder=" …").rstrip(".")
