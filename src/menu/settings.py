"""A setting of a config class as a question.

The comment above the field is the question, the layers below (class, preset, earlier answers) give the default, and
`commands.parse` checks: the same answer on the command line gets the same complaint.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import commands
from auto_bot_tuner.utils.settings import Setting, settings_of
from src.menu.draft import Draft, as_text, as_words, below, current, key_of
from src.menu.kinds import bare, is_list, is_optional, range_of, words_to_choose
from src.menu.screen import Option, choose, choose_many, complain, say, type_in

Put = Callable[[Setting, Any], Any]  # asks for a setting, whose value so far is given


def question_of(setting: Setting) -> str:
    """The comment, the default and the range: what there is to know before an answer."""
    parts = [setting.comment]
    if setting.default not in (dataclasses.MISSING, "", None, ()) and not isinstance(setting.default, dict):
        parts.append(f"Default: {as_shown(setting.default)}.")
    if span := range_of(setting):
        parts.append(f"Range: {span}.")
    return " ".join(parts)


def ask_setting(draft: Draft, setting: Setting, put: Put | None = None) -> Draft:
    """Ask until the answer is one that the command line would take; the draft with it.

    `put` asks; without one the question is made from the setting's type. An answer that is right by itself and does
    not agree with others yet is taken, and it is said: they are changed one after the other.
    """
    while True:
        given = (put or put_by_type)(setting, current(draft, setting))
        if given in ("", []) and setting.default is dataclasses.MISSING:
            complain("this is needed: there is no default")
            continue
        try:
            answered = draft.given(key_of(setting), as_words(setting, below(draft, setting), given))
        except ValueError as error:  # quotation marks that do not pair
            complain(f"{key_of(setting)}: {error}")
            continue
        complaint = answered.complaint()
        if not setting.positional and re.search(rf"{setting.flag}(?![\w-])", complaint):
            complain(complaint)
            continue
        if complaint and not complaint.startswith("missing"):
            say(f"(taken; to be settled before the start: {complaint})")
        return answered


def as_shown(value: Any) -> str:
    """A value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return as_text(value) or "-"


def put_by_type(setting: Setting, value: Any) -> Any:
    """The question by the setting's type: a list to choose from, or a line to type."""
    kind, name = bare(setting.annotation), setting.flag.strip("-")
    say()
    say(question_of(setting))
    if kind is bool:
        unset = [Option("as the default has it", None)] if is_optional(setting) else []
        return choose(f"{name}?", [*unset, Option("yes", True), Option("no", False)], value)
    if (words := words_to_choose(setting.annotation)) and not is_list(setting):
        return choose(f"{name}?", [Option(str(word), word) for word in words], value)
    if words:
        return tuple(choose_many(f"{name}?", [Option(str(word), word) for word in words], value or ()))
    return type_in(f"{name}:", as_text(value), is_path=kind is str)


def sections(verb: str) -> list[tuple[str, list[Setting]]]:
    """The settings of a train verb by the class that introduces them: (title, settings)."""
    found = []
    for own in settings_of(commands.arguments_class(verb)):
        kind = type(own.default)
        if not dataclasses.is_dataclass(kind):
            continue
        # The later of the bases wins: the one that introduces a setting, not one that changes its default.
        home = {name: base for base in kind.__mro__[:-1] for name in inspect.get_annotations(base)}
        groups: dict[type, list[Setting]] = {}
        for setting in settings_of(kind):
            groups.setdefault(home[setting.name], []).append(setting)
        found += [(TITLES.get(base.__name__, base.__name__), group) for base, group in groups.items()]
    return found


TITLES = {
    "ModelConfig": "Model and adapters",
    "DatasetConfig": "Data",
    "TrainingConfig": "Steps, optimiser, saving, logging",
    "OnPolicyConfig": "Writing and rewarding responses",
    "SFTConfig": "What only SFT has",
    "RewardModelConfig": "What only reward models have",
    "DPOConfig": "What only DPO and its family have",
    "PPOConfig": "What only PPO has",
    "GRPOConfig": "What only GRPO and its relatives have",
}
