"""Of a verb with subcommands: a mistyped one, which would be told as an unknown option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from auto_bot_tuner.utils.errors import UsageError


def known_subcommand(verb: str, arguments_class: Any, argv: Sequence[str]) -> None:
    """The verb's `layers`: there are none below its flags, but its first word is looked at.

    Raises:
        UsageError: it is no subcommand; the message has the nearest one, or all.
    """
    from auto_bot_tuner.utils.settings import nearest
    from commands.help import subcommands

    members = subcommands(arguments_class)
    if not argv or argv[0].startswith("-") or argv[0] in members:
        return
    near = nearest(argv[0], members)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(members)}"
    raise UsageError(f"{verb} has no {argv[0]!r}: {hint} (flags: python main.py {verb} --help)")
