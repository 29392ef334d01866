"""Settings that name something of what is here: models, data, rewards, runs, a folder. They are chosen, not typed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auto_bot_tuner.training.run_folder import leftovers
from auto_bot_tuner.utils.settings import Setting
from src.menu.draft import Draft, as_text, find, key_of, values
from src.menu.kinds import is_list
from src.menu.screen import Option, choose, choose_many, complain, say, table, type_in
from src.menu.settings import Put, question_of
from src.menu.stock import ANOTHER, ROLES, Stock, data, models, pick, short, shown_name, told

MODELS = ("--model", "model", "--against", "--checkpoint", "checkpoint", "--lora-checkpoint", "--reference")
JUDGES = ("--reward-model", "--judge")
DATA = ("--dataset", "--eval-dataset", "--sft-dataset", "--train-dataset")
RUNS = ("runs", "run", "folders")

TITLES = {"--against": "Against which model?", "--lora-checkpoint": "Which adapter?", "--reference": "Which reference?"}

REWARDS = (
    ("correct", "code computes the right answer (the bundled world)"),
    ("exact_match", "equal to the row's answer"),
    ("numeric", "the last number is that of the row's answer"),
    ("gold", "right, polite and brief (the bundled world)"),
    ("json", "valid JSON"),
    ("ended", "ended by itself"),
)


@dataclass
class Picks:
    """The lists for the settings of a draft."""

    draft: Draft
    stock: Stock
    overwrites: bool = False  # leave was given to delete the run in the chosen folder

    def way(self, setting: Setting) -> Put | None:
        """How to ask for a setting that names something of what is here; None: by its type."""
        key = key_of(setting)
        ways: list[tuple[Sequence[str], Put]] = [
            (MODELS, self.pick_model),
            (JUDGES, self.pick_judge),
            (DATA, self.pick_data),
            (("--reward",), self.pick_reward),
            (("--output-dir",), self.new_folder),
            (RUNS, self.pick_runs),
            (("--output",) if self.draft.verb == "convert" else (), self.export_folder),
        ]
        return next((way for keys, way in ways if key in keys), None)

    def role(self) -> str:
        """What the verb wants of models and of rows."""
        method = find(self.draft, "--method")
        if self.draft.verb == "inspect" and method is not None:
            return str(values(self.draft, [method])["--method"])
        return self.draft.verb.removeprefix("train-")

    def pick(
        self, setting: Setting, title: str, found: list[tuple[str, str]], value: Any, what: str = "a name or path"
    ) -> Any:
        """One of `found`, or what is typed: of a setting that is a list its only word, or the words as typed."""
        say_first(setting)
        chosen = pick(title, found, as_text(value), what, bool(self.draft.answers.get(key_of(setting))))
        return (chosen,) if is_list(setting) and chosen in dict(found) else chosen

    def pick_model(self, setting: Setting, value: Any) -> Any:
        key = key_of(setting)
        found = models(self.stock, self.role_of_model())
        if key == "--against":
            found = self.others(found)
        if key == "--lora-checkpoint":
            found = list(adapters(found))
        return self.pick(setting, TITLES.get(key, "Which model?"), found, value)

    def role_of_model(self) -> str:
        """What is measured writes answers, but for a reward model's report card; converted and pushed is any."""
        if self.draft.verb == "evaluate":
            return "judge" if self.draft.start[:1] == ("reward",) else "chat"
        return self.role() if self.role() in ROLES else "any"

    def others(self, found: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """All but the model that is compared; the one that it came from first."""
        compared = self.draft.answers.get("--model", [""])[-1]
        origin = next((run.model for run in self.stock.runs if str(run.final) == compared), "")
        return sorted((each for each in found if each[0] != compared), key=lambda each: each[0] != origin)

    def pick_judge(self, setting: Setting, value: Any) -> Any:
        found = models(self.stock, "judge")
        if setting.flag == "--judge":
            found = [("gold", "the bundled world's own scorer"), *found]
        return self.pick(setting, f"{setting.flag.strip('-')}?", found, value)

    def pick_data(self, setting: Setting, value: Any) -> Any:
        role = self.role()
        if self.draft.verb == "evaluate":
            role = {"perplexity": "perplexity", "reward": "reward"}.get(self.draft.start[0], "questions")
        found = data(self.stock, role)
        mix = find(self.draft, "--mix")
        mixed = as_text(values(self.draft, [mix])["--mix"]) if mix and not value else ""
        if mixed and setting.flag == "--dataset":
            found = [("", f"as the preset says, a mix: {mixed}"), *found]
        return self.pick(setting, "Which data set?", found, value)

    def pick_reward(self, setting: Setting, value: Any) -> Any:
        found = [*REWARDS, *models(self.stock, "judge")]
        return self.pick(setting, "Which reward?", found, value, "names, with weights where wanted: numeric 0.2*json")

    def pick_runs(self, setting: Setting, value: Any) -> Any:
        lines = table([(short(run.folder), told(run)) for run in self.stock.runs])
        options = [Option(line, str(run.folder)) for line, run in zip(lines, self.stock.runs, strict=True)]
        say_first(setting)
        while options:
            ticked = choose_many("Which runs?", [*options, Option("another: type a path", ANOTHER)], list(value or ()))
            if ANOTHER not in ticked:
                if ticked:
                    return ticked
                complain("tick one or more with Space")
                continue
            break
        return type_in("folder:", is_path=True)

    def export_folder(self, setting: Setting, value: Any) -> str:
        """exports/ and the model's name, or the first sister by number that is free."""
        say_first(setting)
        answers = self.draft.answers
        source = next((answers[key][-1] for key in ("--checkpoint", "--lora-checkpoint") if answers.get(key)), "")
        name = shown_name(source).replace("/", "-").strip("-.~")
        proposed = f"exports/{name}" if source and name else ""
        return type_in("output:", as_text(value) or free(proposed, occupied), is_path=True)

    def new_folder(self, setting: Setting, value: Any) -> str:
        """A folder for the run that holds none yet, or leave to delete the one that it holds."""
        say_first(setting)
        while True:
            typed = type_in("output-dir:", free(as_text(value)), is_path=True)
            if not typed or not leftovers(Path(typed)):
                return typed or as_text(value)
            say(f"{typed} holds a run already.")
            answers = [Option("choose another folder", False), Option("delete that run and start anew", True)]
            if choose("What now?", answers):
                self.overwrites = True
                return typed


def occupied(folder: Path) -> bool:
    """Whether an export there would need --overwrite."""
    return folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def adapters(found: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Of trained models those that are an adapter; then the adapters beside models that they are merged into."""
    for inside, about in (("", ""), ("adapter", ", merged into its final/ already")):
        for name, words in found:
            if (Path(name) / inside / "adapter_config.json").is_file():
                yield str(Path(name) / inside), words + about


def say_first(setting: Setting) -> None:
    say()
    say(question_of(setting))


def free(folder: str, is_taken: Callable[[Path], Any] = leftovers) -> str:
    """`folder`, or its first sister by number that holds no run (nothing: `is_taken`)."""
    number, name = 1, folder
    while folder and is_taken(Path(name)):
        number += 1
        name = f"{folder.rstrip('/')}-{number}"
    return name
