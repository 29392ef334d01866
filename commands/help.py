"""`python main.py VERB --help`: every setting with its comment, range and default, the most used ones first.

Made from the config classes, as the flags are. (tyro prints a page too; it knows no groups of a class, no ranges, and
shows its own names for types.)
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tyro

import commands
from auto_bot_tuner.utils.settings import Setting, settings_of, subcommands
from commands.examples import EXAMPLES
from commands.flag_values import default_in_words, range_in_words, value_in_words

WORDS = ("-h", "--help")
# Of a page with more settings than a screen holds: what most people set, in this order.
FIRST = (
    "model", "dataset", "preset", "reward_model", "reward", "output_dir", "use_lora", "learning_rate", "num_epochs",
    "max_steps", "batch_size", "gradient_accumulation_steps", "max_samples", "max_length", "seed", "logging_steps",
    "save_steps", "resume", "overwrite", "dry_run",
)  # fmt: skip
MANY = 30
COLUMN = 26  # where comments begin


class Shown(NamedTuple):
    """A setting, the section of the page that it stands in, and the value that it has without its flag."""

    setting: Setting
    section: str
    value: Any


def page(verb: str, argv: Sequence[str]) -> str:
    """The help of a verb, or of its subcommand that `argv` names; defaults are those of a preset or file in `argv`.

    Raises:
        UsageError: that preset or file cannot be read.
    """
    handler = importlib.import_module(f"commands.{commands.VERBS[verb].module}")
    program, arguments_class = f"python main.py {verb}", handler.Arguments
    path = verb
    words = [word for word in argv if not word.startswith("-")]
    while members := subcommands(arguments_class):
        if not words or words[0] not in members:
            return overview(program, handler, members, path)
        path, program, arguments_class = f"{path} {words[0]}", f"{program} {words[0]}", members[words.pop(0)]
    default = handler.layers(argv) if hasattr(handler, "layers") else None
    shown = list(settings_shown(arguments_class, default))
    positional = " ".join(positional_word(entry.setting) for entry in shown if entry.setting.positional)
    parts = [f"usage: {program} {positional}{' ' * bool(positional)}[FLAGS]", wrapped(docstring(arguments_class))]
    parts += [section(title, entries) for title, entries in sections(shown).items()]
    return "\n\n".join([*parts, *examples(path, handler)])


def overview(program: str, handler: Any, members: dict[str, Any], path: str) -> str:
    """The page of a verb that has subcommands."""
    lines = [entry(f"  {name}", docstring(member)) for name, member in members.items()]
    about = wrapped((inspect.getdoc(handler) or "").replace("`", "").split("\n\n")[0])
    usage = f"usage: {program} COMMAND [FLAGS]"
    more = f"{program} {next(iter(members))} --help shows every setting of one of them."
    return "\n\n".join([usage, about, "\n".join([title("Commands"), *lines]), more, *examples(path, handler)])


def settings_shown(arguments_class: Any, default: Any) -> Iterator[Shown]:
    """All settings of a page, those inside of sections too."""
    for setting in settings_of(arguments_class):
        value = setting.default if default is None else getattr(default, setting.name)
        if tyro.conf.Suppress in getattr(setting.annotation, "__metadata__", ()):
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for inner in settings_shown(type(value), value):
                yield Shown(inner.setting, inner.section or setting.comment.rstrip("."), inner.value)
        else:
            yield Shown(setting, setting.group, value)


def sections(shown: Sequence[Shown]) -> dict[str, list[Shown]]:
    """The settings by section: what must be given, what most people set, a method's own, then the rest in order."""
    found: dict[str, list[Shown]] = {"To be given": []}
    found["Most used"] = []
    own = "" if len(shown) <= MANY else next((e.section for e in reversed(shown) if is_own(e.section)), "")
    if own:
        found[own] = []
    for entry in shown:
        is_first = len(shown) > MANY and flag_name(entry.setting) in FIRST and not is_own(entry.section)
        is_required = entry.value is dataclasses.MISSING
        name = "To be given" if is_required else "Most used" if is_first else entry.section or "Settings"
        found.setdefault(name, []).append(entry)
    found["Most used"].sort(key=lambda entry: FIRST.index(flag_name(entry.setting)))
    return {name: entries for name, entries in found.items() if entries}


def is_own(section: str) -> bool:
    """Whether a heading is a method's: its settings come before those that all methods share."""
    return section.startswith("Settings of ")


def flag_name(setting: Setting) -> str:
    """The name under which a setting is known to people: of `name` in the model's section, `model`."""
    return setting.flag.removeprefix("--").replace("-", "_") if setting.name == "name" else setting.name


def section(name: str, entries: Sequence[Shown]) -> str:
    return "\n".join([title(name), *(described(entry) for entry in entries)])


def described(shown: Shown) -> str:
    """One setting: its flag with what it takes, its comment, and the default with the range."""
    setting, value = shown.setting, shown.value
    takes = value_in_words(setting)
    if setting.positional:
        left = positional_word(setting)
    elif isinstance(value, bool):
        left = f"{setting.flag}, --no-{setting.flag[2:]}" if value else setting.flag
    else:
        left = f"{setting.flag} {takes}"
    facts = [default_in_words(value), range_in_words(setting.annotation)]
    return entry(f"  {left}", f"{setting.comment} ({'; '.join(fact for fact in facts if fact)})")


def positional_word(setting: Setting) -> str:
    return value_in_words(setting) if "|" in value_in_words(setting) else setting.name.upper()


# ---- text ----


def entry(left: str, right: str) -> str:
    """Two columns; what is too long for the first has a line of its own."""
    lines = textwrap.wrap(right, width() - COLUMN, break_on_hyphens=False, break_long_words=False) or [""]
    pad = " " * COLUMN
    head = [f"{left:{COLUMN}}{lines[0]}"] if len(left) < COLUMN - 1 else [*wide(left), pad + lines[0]]
    return "\n".join([*head, *(pad + line for line in lines[1:])])


def wide(left: str) -> list[str]:
    """A flag with many choices, broken where one ends."""
    apart = left.strip().replace("|", "| ")
    lines = textwrap.wrap(
        apart, width(), initial_indent="  ", subsequent_indent=" " * 6, break_on_hyphens=False, break_long_words=False
    )
    return [line.replace("| ", "|") for line in lines]


def wrapped(text: str) -> str:
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width()) for part in text.split("\n\n"))


def docstring(arguments_class: Any) -> str:
    return (inspect.getdoc(arguments_class) or "").replace("`", "")


def examples(path: str, handler: Any) -> list[str]:
    """Commands to copy: those of `commands/examples.py`, else of the handler itself."""
    known = EXAMPLES.get(path) or getattr(handler, "EXAMPLES", ())
    if not known:
        return []
    lines = [line for command in known for line in wrap_command(f"python main.py {command}")]
    return ["\n".join([title("Examples"), *lines])]


def wrap_command(command: str) -> list[str]:
    """A command over several lines, as a shell reads it."""
    lines = textwrap.wrap(command, width() - 6, break_on_hyphens=False, break_long_words=False)
    joined = [f"  {line}" if i == 0 else f"      {line}" for i, line in enumerate(lines)]
    return [f"{line} \\" if i < len(joined) - 1 else line for i, line in enumerate(joined)]


def title(text: str) -> str:
    """A heading, bold where that can be seen."""
    is_plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return f"{text}:" if is_plain else f"\033[1m{text}:\033[0m"


def width() -> int:
    return max(50, min(shutil.get_terminal_size((80, 24)).columns, 100)) - 1
