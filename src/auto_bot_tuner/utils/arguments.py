"""Flags from a config dataclass, and what is wrong with them in one line.

tyro makes the flags, their help and their types from the dataclass. Its complaints are drawn in boxes of many lines;
the line that says what to do is in there, and this file takes it out.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any

import tyro
from pydantic import ValidationError

from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.settings import PLAINER, all_settings, in_one_line, nearest, subcommands

# Sections are for reading: `--learning-rate`, not `--training.learning-rate`.
FLAT = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
RULE = "\0"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # tyro's, where stdout is a terminal


def parse_arguments(arguments_class: Any, argv: Sequence[str], program: str, default: Any = None) -> Any:
    """The `arguments_class` that `argv` describes; `default` holds what earlier layers have set.

    `arguments_class` is a dataclass, or a union of them for a verb with subcommands.

    Raises:
        UsageError: an unknown flag (with the near miss), a wrong type, a value out of range.
        SystemExit: after `--help`, with code 0.
    """
    check_subcommand(arguments_class, argv, program)
    layers = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(arguments_class, args=list(argv), prog=program, config=FLAT, **layers)
    except ValidationError as error:
        raise UsageError(f"{in_one_line(error, _flags(arguments_class))} (flags: {program} --help)") from None
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(one_line(complaint.getvalue(), program, arguments_class)) from None


def check_subcommand(arguments_class: Any, argv: Sequence[str], program: str) -> None:
    """The first word of a verb with subcommands is one of them; tyro would call it an unknown option.

    Raises:
        UsageError: it is none; the message has the nearest one, or all.
    """
    members = subcommands(arguments_class)
    if not members or not argv or argv[0].startswith("-") or argv[0] in members:
        return
    near = next((name for name in members if name.startswith(argv[0])), "") or nearest(argv[0], members)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(members)}"
    raise UsageError(f"{program.split()[-1]} has no {argv[0]!r}: {hint} (flags: {program} --help)")


def one_line(box: str, program: str, arguments_class: Any = None) -> str:
    """tyro's box as one line: the complaint, the near misses, and where the help is."""
    inside = [line.strip("│╭╮╰╯|+ ") for line in COLOURS.sub("", box).splitlines()]
    # Rules part the sections. The title stands in the upper border, or in a section of its own before an ASCII rule.
    text = "\n".join(RULE if line.endswith(("───", "---")) or line.startswith("─") else line for line in inside)
    sections = [" ".join(section.split()) for section in text.split(RULE)]
    sections = [section for section in sections if section] or [""]
    complaint, *rest = sections[1:] if "╭" not in box and len(sections) > 1 else sections
    flags = _flags(arguments_class)
    if sentence := _misplaced(complaint, arguments_class):
        return f"{sentence} (flags: {program} --help)"
    sentence = _from_pydantic(complaint, flags) or _from_union(complaint) or _missing(complaint, arguments_class)
    sentence = sentence or _pairs(complaint) or complaint[:1].lower() + complaint[1:].rstrip(".")
    near = re.findall(r"(?:meant|to \S+?): (--[\w-]+)", "\n".join(rest))
    meant = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
    help_line = re.search(r"For full helptext, (?:run|see):? (.+ --help)", rest[-1] if rest else "")
    return f"{sentence}{meant} (flags: {help_line[1] if help_line else f'{program} --help'})"


def _from_pydantic(complaint: str, flags: dict[str, str]) -> str:
    """`Error parsing training: 1 validation error for SFTConfig learning_rate Input should be …` as a sentence."""
    pattern = (
        # Of several wrong fields the first is named, up to the end of its own value.
        # A complaint about several fields at once (from a validator of the whole class) names none of them first.
        r"validation errors? for \w+ (?:(?P<field>(?!Value error,)\S+) )?(?:Input |Value error, )?(?P<message>.*?)"
        r" \[type=.*?input_value=(?P<value>.*?), input_type"
    )
    found = re.search(pattern, complaint)
    if not found:
        return ""
    if not found["field"]:
        return found["message"]
    field = found["field"].split(".")[0]
    message = PLAINER.get(found["message"], found["message"])
    return f"{flags.get(field, field)} {message}, not {found['value']}"


def _from_union(complaint: str) -> str:
    """An optional number that is none: tyro lists every type that it tried."""
    if found := re.search(r"Error parsing (--[\w-]+): could not convert string to float: (.*)", complaint):
        return f"{found[1]} needs a number, not {found[2]}"
    pattern = r"Error parsing (--[\w-]+): no type matching (\S+) could be instantiated from \[(.*?)\]"
    found = re.search(pattern, complaint)
    return f"{found[1]} needs {found[2].removeprefix('{None}|')}, not {found[3]}" if found else ""


def _misplaced(complaint: str, arguments_class: Any) -> str:
    """Words that a verb with subcommands does not know: tyro says of each where it stood, and how ordering matters."""
    members = subcommands(arguments_class)
    if not members or not complaint.lower().startswith("unrecognized"):
        return ""
    listed = complaint.partition(": ")[2].partition(" Arguments are")[0]
    words = re.sub(r" \(applied to .*?\)", "", listed).replace(", ", " ").split()
    first = next((word for word in words if word.startswith("-")), "")
    owner = next((name for name, member in members.items() if first in _flags(member).values()), "")
    near = nearest(first, _flags(arguments_class).values())
    hint = f"; {first} belongs to {owner}" if owner else f"; did you mean {near}?" if near else ""
    return f"unrecognized options: {', '.join(words)}{hint}"


def _pairs(complaint: str) -> str:
    """A setting of names with numbers, in which the two do not take turns or a number is none."""
    found = re.search(r"parsing (--[\w-]+): Failed to parse key-value pairs", complaint)
    if not found:
        return ""
    return f"{found[1]} takes names and numbers in turns: {found[1]} mine.jsonl 0.1 tiny-instructions 0.9"


def _missing(complaint: str, arguments_class: Any) -> str:
    """Required settings that were not given. tyro adds the whole help of each; the names are enough."""
    if not complaint.startswith("Missing from"):
        return ""
    names = [setting.name if setting.positional else setting.flag for setting in all_settings(arguments_class)]
    positional = [setting.name for setting in all_settings(arguments_class) if setting.positional]
    flags = [name for name in dict.fromkeys(names) if re.search(rf"(?<!\S){re.escape(name)} [A-Z{{\[]", complaint)]
    return f"missing: {', '.join(flags or dict.fromkeys(positional))}"


def _flags(arguments_class: Any) -> dict[str, str]:
    return {setting.name: setting.flag for setting in all_settings(arguments_class)}
