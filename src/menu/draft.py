"""A command in the making: a verb with the words of its answers, and what its settings are so far."""

from __future__ import annotations

import dataclasses
import shlex
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import tyro

import commands
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.settings import Setting, all_settings, value_of
from src.menu.kinds import is_list, is_optional


@cache
def read(verb: str, argv: tuple[str, ...]) -> Any:
    """The arguments, or what is wrong with them. A list of forty settings asks the same forty times."""
    try:
        return commands.parse(verb, argv)
    except UsageError as error:
        return error


@dataclass
class Draft:
    """A command in the making: a verb, the words that the menu's entry stands for, and the answers so far."""

    verb: str
    start: tuple[str, ...] = ()  # a subcommand, a preset
    answers: dict[str, list[str]] = field(default_factory=dict)  # the setting's key → its words

    @property
    def argv(self) -> list[str]:
        return [*self.start, *(word for words in self.answers.values() for word in words)]

    @property
    def line(self) -> str:
        """What does the same in a shell."""
        return shlex.join(["python", "main.py", self.verb, *self.argv])

    def without(self, key: str) -> Draft:
        return Draft(self.verb, self.start, {name: words for name, words in self.answers.items() if name != key})

    def given(self, key: str, words: list[str]) -> Draft:
        """The same with an answer, in the place where an earlier answer to this question stood."""
        answers = {name: words if name == key else old for name, old in self.answers.items()}
        return Draft(self.verb, self.start, {**answers, key: words})

    def parsed(self) -> Any:
        """The arguments; to be read, not to be changed. Raises UsageError."""
        found = read(self.verb, tuple(self.argv))
        if isinstance(found, UsageError):
            raise found
        return found

    def complaint(self) -> str:
        """What the command line would say against it, without its pointer to --help; empty: nothing."""
        try:
            self.parsed()
        except UsageError as error:
            return str(error).rsplit(" (flags: ", 1)[0]
        return ""


def key_of(setting: Setting) -> str:
    return setting.name if setting.positional else setting.flag


def member(verb: str, subcommand: str = "") -> Any:
    """The class of a verb's flags; of a union that of the subcommand."""
    whole = commands.arguments_class(verb)
    return next((kind for name, kind in members(whole) if name == subcommand), whole)


def members(union: Any) -> list[tuple[str, type]]:
    """(subcommand, its class) of a union of them; nothing for a class."""
    found = []
    for kind in typing.get_args(union):
        name = next((mark.name for mark in getattr(kind, "__metadata__", ()) if getattr(mark, "name", None)), "")
        found.append((name, typing.get_args(kind)[0] if name else kind))
    return found


def find(draft: Draft, key: str) -> Setting | None:
    """The setting that a flag or a positional name stands for; None where this command has none of that name."""
    kind = member(draft.verb, draft.start[0] if draft.start else "")
    return next((setting for setting in all_settings(kind) if key in (key_of(setting), setting.name)), None)


def below(draft: Draft, setting: Setting) -> Any:
    """The value without an answer of its own: what the preset, the class and the other answers give it."""
    others = draft.without(key_of(setting))
    for layer in (others, Draft(draft.verb, draft.start)):
        try:
            return value_of(layer.parsed(), setting)
        except UsageError:  # another answer is missing, or settings do not agree yet
            continue
    return None if setting.default is dataclasses.MISSING else setting.default


def current(draft: Draft, setting: Setting) -> Any:
    """The value so far."""
    alone = Draft(draft.verb, draft.start, {key_of(setting): draft.answers.get(key_of(setting), [])})
    for layer in (draft, alone):
        try:
            return value_of(layer.parsed(), setting)
        except UsageError:
            continue
    return below(draft, setting)


def as_text(value: Any) -> str:
    """A value as one would type it: nothing for none, words of a list one after the other.

    >>> as_text(("a b", "c")), as_text({"x": 0.5}), as_text(None), as_text(0.0003)
    ("'a b' c", 'x 0.5', '', '0.0003')
    """
    if value is None:
        return ""
    if isinstance(value, dict):
        return shlex.join(str(word) for pair in value.items() for word in pair)
    return shlex.join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def as_words(setting: Setting, unanswered: Any, answer: Any) -> list[str]:
    """An answer as words of the command line; what the layers below say already needs no words.

    Raises:
        ValueError: a list whose quotation marks do not pair.
    """
    text = as_text(answer)
    if text == as_text(unanswered):
        return []
    if isinstance(answer, bool) and not is_optional(setting):
        return [setting.flag if answer else setting.flag.replace("--", "--no-", 1)]
    if is_list(setting):
        words = [str(word) for word in answer] if isinstance(answer, tuple | list) else shlex.split(text)
        if setting.positional:
            return words
        if tyro.conf.UseAppendAction in getattr(setting.annotation, "__metadata__", ()):
            return [word for each in words for word in flag_and(setting.flag, each)]
        return [setting.flag, *words]
    if not text and is_optional(setting):
        text = "None"
    return [text] if setting.positional else flag_and(setting.flag, text)


def flag_and(flag: str, word: str) -> list[str]:
    """A word that begins like a flag must be tied to its own."""
    return [f"{flag}={word}"] if word.startswith("-") else [flag, word]


def values(draft: Draft, settings: Sequence[Setting]) -> dict[str, Any]:
    """The values so far by their keys; the command line is read once, which takes some hundredths of a second."""
    try:
        arguments = draft.parsed()
    except UsageError:  # not complete, or not in agreement yet
        return {key_of(setting): current(draft, setting) for setting in settings}
    return {key_of(setting): value_of(arguments, setting) for setting in settings}
