"""Train from the menu: method, how, the questions that matter, review, run, and what to do with the result."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from auto_bot_tuner.utils.inventory import read_run
from src.menu.advice import resumed
from src.menu.ask import Questions
from src.menu.draft import Draft
from src.menu.launch import Outcome, review, then
from src.menu.screen import Option, choose, table, walk
from src.menu.stock import Stock, look_around, short, told
from src.menu.tools import at_once, reviewed

METHODS = (
    Option("SFT             imitate answers", "sft", "Supervised fine-tuning: a base model becomes one that answers."),
    Option("Reward model    score answers as people do", "reward", "From comparisons: chosen and rejected answers."),
    Option("DPO             prefer the better answers", "dpo", "From comparisons, without a reward model."),
    Option("PPO             learn from a reward model", "ppo", "The policy answers, a reward model scores: RLHF."),
    Option("GRPO            learn from checked answers", "grpo", "Several answers compete; code says which is right."),
)
WAYS = (
    Option("Quick      a look: seconds on the bundled world, minutes on a real one", "quick"),
    Option("Standard   a real run", "standard"),
    Option("Custom     every setting, by section", "custom"),
)
FIRST = {
    "ppo": ("--model", "--reward-model", "--dataset"),
    "grpo": ("--model", "--reward", "--dataset"),
}


def first_questions(method: str) -> tuple[str, ...]:
    return FIRST.get(method, ("--model", "--dataset"))


OF_STANDARD = ("--lora", "--epochs", "--learning-rate")


class Training:
    """One way through the questions."""

    def __init__(self, stock: Stock) -> None:
        self.stock, self.method, self.way = stock, "sft", "quick"

    def ask(self) -> None:
        walk([self.ask_method, self.ask_way, self.ask_settings])

    def ask_method(self) -> None:
        self.method = choose("Train what?", METHODS, self.method)

    def ask_way(self) -> None:
        self.way = choose("How?", WAYS, self.way)

    def ask_settings(self) -> None:
        flags = () if self.way == "custom" else ("--preset", self.way)
        questions = Questions(Draft(f"train-{self.method}", flags), self.stock)
        keys = [*first_questions(self.method), *(OF_STANDARD if self.way == "standard" else ())]
        if self.way == "custom":
            walk(
                [lambda: questions.ask(keys, lambda: None), partial(all_settings_of, questions), partial(go, questions)]
            )
        else:
            questions.ask([*keys, "--output-dir"], partial(go, questions))


def all_settings_of(questions: Questions) -> None:
    """Custom: the sections, then the folder, which depends on nothing else."""
    questions.edit()
    questions.put("--output-dir")


def suggested(draft: Draft, stock: Stock) -> None:
    """A training that the home screen proposes: what it leaves open is asked."""
    questions = Questions(draft, stock)
    keys = [key for key in first_questions(draft.verb.removeprefix("train-")) if key not in draft.answers]
    questions.ask([*keys, "--output-dir"], partial(go, questions))


def go(questions: Questions) -> None:
    """The review, the run, and what to do with what came of it."""
    came_of(*review(questions.draft, questions.change, measures=True))


def resume(draft: Draft) -> None:
    """Go on with an interrupted run."""
    came_of(*review(draft))


def choose_to_resume(stock: Stock) -> None:
    options = [
        Option(line, run)
        for line, run in zip(
            table([(short(run.folder), told(run)) for run in stock.resumable]), stock.resumable, strict=True
        )
    ]
    walk([lambda: resume(resumed(choose("Resume which run?", options)))])


def came_of(draft: Draft, outcome: Outcome) -> None:
    """What a trained model is for; or how an interrupted run goes on."""
    arguments = draft.parsed()
    folder = Path(arguments.training.output_dir)
    if outcome == "interrupted":
        again = resumed(read_run(folder))
        then("The run waits.", [(f"Resume {short(folder)}", lambda: resume(again))], once=True)
        return
    final, stock = str(folder / "final"), look_around()
    if arguments.method == "reward":
        asked = Questions(Draft("evaluate", ("reward",), {"--model": ["--model", final]}), stock)
        first = [("Look at its report card", lambda: asked.ask(["--dataset"], lambda: reviewed(asked)))]
    else:
        answers = {"--model": ["--model", final], "--against": ["--against", arguments.model.name]}
        asked = Questions(Draft("evaluate", ("compare",), answers), stock)
        first = [
            ("Chat with it", lambda: at_once(Draft("chat", (), {"model": [final]}))),
            ("Compare it with what it came from", lambda: asked.ask(["--dataset"], lambda: reviewed(asked))),
        ]
    page = Draft("report", (str(folder),))
    then("The model is trained. What next?", [*first, ("Read the run's report", lambda: at_once(page))])
