"""`completion bash|zsh|fish`: a script with which the shell completes commands, flags and choices.

Made from the same settings as the flags. It works for `python main.py …`, `./main.py …` and an alias that ends in
`main.py`; after `python` and any other file the shell completes files, as it does without.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.settings import Setting, all_settings, subcommands
from commands.flag_values import choices, kind


@dataclass(config=STRICT, kw_only=True)
class Arguments:
    """Print a script with which the shell completes commands, flags and choices: the examples say where to put it."""

    # The shell that it is for. zsh reads the script of bash, with its own adapter.
    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]


class Flag(NamedTuple):
    """A flag as the shell completes it."""

    word: str  # --learning-rate
    values: tuple[str, ...]  # what it can be followed by, where that is known
    takes: str  # file, or nothing (a switch), or text


class Command(NamedTuple):
    """A verb, or a verb's subcommand, as the shell completes it."""

    path: str  # train-sft, evaluate perplexity
    words: tuple[str, ...]  # that may follow it, other than flags: subcommands, choices
    flags: tuple[Flag, ...]


def run(arguments: Arguments) -> None:
    """Print the script."""
    from commands import completion_scripts as scripts

    script = {"bash": scripts.bash, "zsh": scripts.zsh, "fish": scripts.fish}[arguments.shell]
    print(script(list(all_commands())), end="")


def all_commands() -> Iterator[Command]:
    """Every verb and subcommand, from what their flags are made of; of a verb that cannot be imported, none."""
    from commands import VERBS

    yield Command("", tuple(VERBS), (HELP, DEBUG))
    for verb in VERBS:
        try:
            arguments_class = importlib.import_module(f"commands.{VERBS[verb].module}").Arguments
        except ImportError:
            continue
        yield from commands_of(verb, arguments_class)


def commands_of(path: str, arguments_class: Any) -> Iterator[Command]:
    members = subcommands(arguments_class)
    if members:
        yield Command(path, tuple(members), (HELP, DEBUG))
        for name, member in members.items():
            yield from commands_of(f"{path} {name}", member)
        return
    settings = list(shown(arguments_class))
    positional = tuple(word for setting in settings if setting.positional for word in choices(setting))
    flags = [flag for setting in settings if not setting.positional for flag in flags_of(setting)]
    yield Command(path, positional, (*flags, HELP, DEBUG))


HELP, DEBUG = Flag("--help", (), "nothing"), Flag("--debug", (), "nothing")


def shown(arguments_class: Any) -> Iterator[Setting]:
    """The settings that have a flag. `train-config` has those of every method: its file says which."""
    from auto_bot_tuner.utils.run_config import TRAINING_CLASSES, training_class

    found = {setting.flag: setting for setting in all_settings(arguments_class) if not is_suppressed(setting)}
    if arguments_class.__module__ == "commands.train_config":
        for method in TRAINING_CLASSES:
            found |= {setting.flag: setting for setting in all_settings(training_class(method))}
    yield from found.values()


def is_suppressed(setting: Setting) -> bool:
    return tyro.conf.Suppress in getattr(setting.annotation, "__metadata__", ())


def flags_of(setting: Setting) -> Iterator[Flag]:
    """A switch is two flags, on and off."""
    if isinstance(setting.default, bool):
        yield Flag(setting.flag, (), "nothing")
        yield Flag(f"--no-{setting.flag[2:]}", (), "nothing")
        return
    named = kind(setting)
    yield Flag(setting.flag, choices(setting) or bundled(named), "file" if named else "text")


def bundled(named: str) -> tuple[str, ...]:
    """The names that come with this program."""
    from auto_bot_tuner.assets import BUNDLED_DATASETS, BUNDLED_MODELS

    known: dict[str, typing.Iterable[str]] = {"model": BUNDLED_MODELS, "data": BUNDLED_DATASETS}
    return tuple(known.get(named, ()))
