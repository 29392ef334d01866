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

from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.settings import settings_of

# Sections are for reading: `--learning-rate`, not `--training.learning-rate`.
FLAT = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)

RULE = "\0"


def parse_arguments(arguments_class: Any, argv: Sequence[str], program: str, default: Any = None) -> Any:
    """The `arguments_class` that `argv` describes; `default` holds what earlier layers have set.

    Raises:
        UsageError: an unknown flag (with the near miss), a wrong type, a value out of range.
        SystemExit: after `--help`, with code 0.
    """
    layers = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(arguments_class, args=list(argv), prog=program, config=FLAT, **layers)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(one_line(complaint.getvalue(), program, arguments_class)) from None


def one_line(box: str, program: str, arguments_class: Any = None) -> str:
    """tyro's box as one line: the complaint, the near misses, and where the help is."""
    inside = [line.strip("│╭╮╰╯|+ ") for line in box.splitlines()]
    # Rules part the sections. The title stands in the upper border, or in a section of its own before an ASCII rule.
    text = "\n".join(RULE if line.endswith(("───", "---")) or line.startswith("─") else line for line in inside)
    sections = [" ".join(section.split()) for section in text.split(RULE)]
    sections = [section for section in sections if section] or [""]
    complaint, *rest = sections[1:] if "╭" not in box and len(sections) > 1 else sections
    complaint = _from_pydantic(complaint, arguments_class) or _from_union(complaint) or complaint.rstrip(".")
    near = list(
        dict.fromkeys(match for section in rest for match in re.findall(r"(?:meant|to \S+?): (--[\w-]+)", section))
    )
    meant = f"; did you mean {', '.join(near)}?" if near else ""
    return f"{_decapitalised(complaint)}{meant} (flags: {program} --help)"


def _from_pydantic(complaint: str, arguments_class: Any) -> str:
    """`Error parsing training: 1 validation error for SFTConfig learning_rate Input should be …` as a sentence."""
    found = re.search(
        r"validation errors? for (\w+) (\S+) (?:Input |Value error, )?(.*?) \[type=.*?input_value=(.*), input_type",
        complaint,
    )
    if not found:
        return ""
    _, field, message, value = found.groups()
    return f"{_flag(field.split('.')[0], arguments_class)} {message}, not {value}"


def _from_union(complaint: str) -> str:
    """An optional number that is none: tyro lists every type that it tried."""
    found = re.search(
        r"Error parsing (--[\w-]+): no type matching (\S+) could be instantiated from \[(.*?)\]", complaint
    )
    return f"{found[1]} needs {found[2].removeprefix('{None}|')}, not {found[3]}" if found else ""


def _flag(field: str, arguments_class: Any) -> str:
    """The flag of a field that may stand in a section of the arguments."""
    for setting in settings_of(arguments_class):
        if setting.name == field:
            return setting.flag
        sections = (type(setting.default), setting.annotation)
        for section in sections:
            if hasattr(section, "__dataclass_fields__") and field in section.__dataclass_fields__:
                return next(inner.flag for inner in settings_of(section) if inner.name == field)
    return "--" + field.replace("_", "-")


def _decapitalised(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
