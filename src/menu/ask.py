"""Questions for a draft: some of them in their order, or any of them from a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from auto_bot_tuner.utils.settings import Setting, all_settings
from src.menu.draft import Draft, find, key_of, member, values
from src.menu.picks import Picks
from src.menu.screen import Option, choose, one_step, table, walk
from src.menu.settings import as_shown, ask_setting, question_of, sections
from src.menu.stock import Stock


class Questions:
    """A draft, and the questions that are left to ask about it."""

    def __init__(self, draft: Draft, stock: Stock) -> None:
        self.draft, self.stock = draft, stock

    def ask(self, keys: Sequence[str], last: Callable[[], None]) -> None:
        """Ask for the settings behind `keys`, then `last`; Ctrl-C at one asks the one before again."""
        walk([*(partial(self.put, key) for key in keys), last])

    def put(self, key: str) -> None:
        """Ask for one setting, where this command has it."""
        setting = find(self.draft, key)
        if setting is None:
            return
        picks = Picks(self.draft, self.stock)
        draft = ask_setting(self.draft, setting, picks.way(setting))
        if key == "--output-dir" and find(draft, "--overwrite"):
            draft = draft.given("--overwrite", ["--overwrite"] if picks.overwrites else [])
        self.draft = draft

    def change(self, draft: Draft) -> Draft:
        """Let settings be changed until Ctrl-C or the list's own end; the draft with the changes."""
        self.draft = draft
        with one_step():
            self.edit()
        return self.draft

    def edit(self) -> None:
        """The settings of the command, by section where there are sections. Ctrl-C in the list of sections goes up."""
        parts = sections(self.draft.verb) if self.draft.verb.startswith("train-") else []
        if not parts:
            self.edit_some("Settings", flat(self.draft))
            return
        title = None
        while (title := choose_section(self.draft, parts, title)) is not None:
            self.edit_some(title, dict(parts)[title])

    def edit_some(self, title: str, settings: Sequence[Setting]) -> None:
        """One section: its settings with their values, each of which can be changed. Ctrl-C is done."""
        at: Any = None
        with one_step():
            while True:
                now = values(self.draft, settings)
                shown = table([(key_of(setting).lstrip("-"), as_shown(now[key_of(setting)])) for setting in settings])
                options = [Option("done", None)]
                for line, setting in zip(shown, settings, strict=True):
                    mark = "* " if self.draft.answers.get(key_of(setting)) else "  "
                    options.append(Option(mark + line, key_of(setting), question_of(setting)))
                at = choose(f"{title}:", options, at)
                if at is None:
                    return
                with one_step():
                    self.put(at)


def flat(draft: Draft) -> list[Setting]:
    """The settings of a command without sections worth a list of their own."""
    return list(all_settings(member(draft.verb, draft.start[0] if draft.start else "")))


def choose_section(draft: Draft, parts: Sequence[tuple[str, Sequence[Setting]]], at: Any) -> Any:
    options = [Option("That is all: go on", None)]
    for title, settings in parts:
        changed = sum(bool(draft.answers.get(key_of(setting))) for setting in settings)
        counted = f"{len(settings)} settings" + (f", {changed} changed" if changed else "")
        options.append(Option(f"{title} ({counted})", title))
    return choose("Which settings?", options, at)
