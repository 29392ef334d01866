"""The menu of `python main.py`: asks what a command needs, shows the command line, calls the same handler.

Nothing is set here. Questions, defaults and checks come from the config dataclasses (their comments are the questions),
and the answers become flags: whatever the menu does can be done again, or put into a script, by the line that it shows.
Ctrl-C goes one step back; in the menu itself it leaves.
"""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from typing import Any

import questionary

import commands
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.settings import Setting, all_settings, value_of


@dataclass(frozen=True)
class Entry:
    """A line of the menu: a verb, the flags that this line stands for, and the settings it asks for by their flags."""

    title: str
    verb: str
    flags: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()


ENTRIES = (
    Entry("See the whole pipeline on the bundled tiny model (6 minutes, offline)", "demo"),
    Entry(
        "Fine-tune a model (SFT), a quick look",
        "train-sft",
        ("--preset", "quick"),
        ("--model", "--dataset", "--output-dir"),
    ),
    Entry(
        "Fine-tune a model (SFT), a real run",
        "train-sft",
        ("--preset", "standard"),
        ("--model", "--dataset", "--lora", "--epochs", "--learning-rate", "--output-dir"),
    ),
    Entry(
        "Train a reward model on people's comparisons",
        "train-reward",
        ("--preset", "quick"),
        ("--model", "--dataset", "--lora", "--output-dir"),
    ),
    Entry(
        "Prefer the better answers (DPO)",
        "train-dpo",
        ("--preset", "quick"),
        ("--model", "--dataset", "--lora", "--beta", "--output-dir"),
    ),
    Entry(
        "Learn from a reward model's scores (PPO)",
        "train-ppo",
        ("--preset", "quick"),
        ("--model", "--reward-model", "--dataset", "--lora", "--output-dir"),
    ),
    Entry(
        "Learn from rewards that code can compute (GRPO)",
        "train-grpo",
        ("--preset", "quick"),
        ("--model", "--dataset", "--reward", "--lora", "--output-dir"),
    ),
    Entry("Look at the data token by token", "inspect", (), ("--model", "--dataset")),
    Entry(
        "Look at what a policy writes token by token, with rewards and advantages (PPO)",
        "inspect",
        ("--method", "ppo"),
        ("--model", "--dataset", "--reward-model", "--reward"),
    ),
    Entry("Talk with a model", "chat", (), ("model",)),
    Entry("Measure the perplexity of a model on data", "evaluate", ("perplexity",), ("--model", "--dataset")),
)
QUIT = "Quit"


def main_menu() -> None:
    """Ask, run, ask again, until Quit or Ctrl-C."""
    while True:
        choices = [questionary.Choice(entry.title, entry) for entry in ENTRIES] + [questionary.Choice(QUIT, None)]
        try:
            entry = questionary.select("What would you like to do?", choices=choices).unsafe_ask()
        except KeyboardInterrupt:
            return
        if entry is None:
            return
        carry_out(entry)


def carry_out(entry: Entry) -> None:
    """Ask for the entry's settings, show the command line, and run it when told to."""
    argv = ask_all(entry)
    if argv is None:
        return
    try:
        commands.run(entry.verb, argv)
    except UserError as error:
        questionary.print(f"error: {error}", style="fg:ansired")
    except KeyboardInterrupt:
        questionary.print("interrupted", style="fg:ansired")


def ask_all(entry: Entry) -> list[str] | None:
    """The flags that the answers amount to, or None for back to the menu. The last question is whether to start."""
    answers: list[list[str]] = []
    while True:
        argv = [*entry.flags, *(word for answer in answers for word in answer)]
        try:
            if len(answers) < len(entry.asks):
                answers.append(ask(entry, argv, entry.asks[len(answers)]))
            elif start(entry.verb, argv):
                return argv
            else:
                return None
        except KeyboardInterrupt:
            if not answers:
                return None
            answers.pop()


def start(verb: str, argv: list[str]) -> bool:
    """Show the line that does the same, and ask whether to go."""
    questionary.print(f"\n  {shlex.join(['python', 'main.py', verb, *argv])}\n", style="bold")
    return bool(questionary.confirm("Start?", default=True).unsafe_ask())


def ask(entry: Entry, argv: list[str], flag: str) -> list[str]:
    """One setting's question: its comment, with the value that the layers below and the earlier answers give it."""
    while True:
        setting, value = current(entry.verb, argv, flag)
        given = put(setting, value)
        try:
            answer = as_flags(setting, value, given)
            # A missing later answer is no mistake of this one: look only for complaints that name this flag.
            commands.parse(entry.verb, [*argv, *answer])
        except UsageError as error:
            if flag in str(error):
                questionary.print(f"{error}", style="fg:ansired")
                continue
        except ValueError as error:  # a list whose quotation marks do not pair
            questionary.print(f"{flag}: {error}", style="fg:ansired")
            continue
        return answer


def put(setting: Setting, value: Any) -> Any:
    """The question itself; raises KeyboardInterrupt on Ctrl-C."""
    if isinstance(value, bool):
        return questionary.confirm(setting.comment, default=value).unsafe_ask()
    shown = as_text(value)
    return questionary.text(f"{setting.flag.strip('-')}: {setting.comment}", default=shown).unsafe_ask().strip()


def as_text(value: Any) -> str:
    """A value as one would type it: nothing for none, words of a list one after the other."""
    if value is None:
        return ""
    return shlex.join(value) if isinstance(value, tuple) else str(value)


def as_flags(setting: Setting, value: Any, answer: Any) -> list[str]:
    """An answer as words of the command line; what the layers below say already needs no words."""
    if answer == value or answer == as_text(value) or answer == "":
        return []
    if isinstance(answer, bool):
        return [setting.flag if answer else setting.flag.replace("--", "--no-", 1)]
    if isinstance(value, tuple):
        return [setting.flag, *shlex.split(answer)]
    return [answer] if setting.positional else [setting.flag, answer]


def current(verb: str, argv: list[str], flag: str) -> tuple[Setting, Any]:
    """The setting behind a flag and its value so far: from the preset, the earlier answers, or the class."""
    candidates = all_settings(commands.arguments_class(verb))
    setting = next(s for s in candidates if flag == (s.name if s.positional else s.flag))
    try:
        return setting, value_of(commands.parse(verb, argv), setting)
    except UsageError:  # a required answer is still to come
        return setting, None if setting.default is dataclasses.MISSING else setting.default
