"""The whole pipeline on the bundled world, stage by stage, each measured on the same held-out prompts.

A stage makes a model out of those before it; a later chapter adds its own to `STAGES`. Nothing here is special to the
demo: every stage calls what its own verb calls, and says with which line you can repeat it. How a stage is measured:
`demo_results.py`; how it is shown: `demo_tables.py`, and on a page `demo_story.py`.
"""

from __future__ import annotations

import json
import shlex
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UserError
from commands.demo_results import (
    Result,
    measure_answers,
    measure_puzzles,
    measure_scores,
    reward_of_answers,
)
from commands.demo_story import write_demo_report
from commands.demo_tables import found, show
from commands.json_file import check_writable, write_json
from commands.training import say

QUICK_PROMPTS = 100


@dataclass(config=STRICT, kw_only=True)
class Arguments:
    """The whole pipeline on the bundled tiny model: no network, no account, no GPU."""

    # Fewer rows and prompts: a look in about a minute, not a result.
    quick: bool = False
    # Write the table to this file as JSON.
    json: str = ""
    # Folder of the runs; those of an earlier demo in it are overwritten. Empty: checkpoints/demo, with --quick
    # checkpoints/demo-quick.
    output_dir: str = ""

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or ("checkpoints/demo-quick" if self.quick else "checkpoints/demo")


Models = Mapping[str, str]  # stage → name or folder of its model


class Stage(NamedTuple):
    """A step of the pipeline."""

    name: str
    make: Callable[[Arguments, Models], str]  # trains where there is something to train; name or folder of its model
    does: str  # what happens in it
    look: str  # at what to look in its figures, whatever they turn out to be: "Look at …"
    read: str  # the file that explains it
    answers: bool = True  # its model answers prompts; else it scores answers


def base(arguments: Arguments, models: Models) -> str:
    """Nothing to do: the base model is bundled, pre-trained on text of its world."""
    return "tiny"


def sft(arguments: Arguments, models: Models) -> str:
    """`python main.py train-sft --model tiny --preset standard`, into the demo's folder."""
    return trained("sft", models["base"], arguments)


def reward(arguments: Arguments, models: Models) -> str:
    """`python main.py train-reward --model SFT --dataset tiny-preferences …`, as configs/reward_tiny_standard.yaml."""
    return trained("reward", models["sft"], arguments)


def dpo(arguments: Arguments, models: Models) -> str:
    """`python main.py train-dpo --model SFT --dataset tiny-preferences …`, as configs/dpo_tiny_standard.yaml."""
    return trained("dpo", models["sft"], arguments)


def ppo(arguments: Arguments, models: Models) -> str:
    """`python main.py train-ppo --model SFT --reward-model REWARD …`, as configs/ppo_tiny_standard.yaml."""
    return trained("ppo", models["sft"], arguments, reward_model=[models["reward"]])


def grpo(arguments: Arguments, models: Models) -> str:
    """`python main.py train-grpo --model SFT --reward correct …`, as configs/grpo_tiny_standard.yaml."""
    return trained("grpo", models["sft"], arguments)


STAGES = (
    Stage(
        "base",
        base,
        "A language model that has read text of its world. Asked a question, it goes on writing text.",
        "accuracy and ended: it knows its world, but not that it is asked.",
        "src/auto_bot_tuner/assets/text.py",
    ),
    Stage(
        "sft",
        sft,
        "It imitates good answers: it learns that it is asked, how an answer looks, and when to stop.",
        "accuracy and ended, before and after. What is still wrong, the base model never knew.",
        "src/auto_bot_tuner/sft/loss.py",
    ),
    Stage(
        "reward",
        reward,
        "Another copy learns from comparisons which of two answers is liked better, and gives it a number.",
        "each kind of pair, not the headline: manners come easily, right and wrong are hard.",
        "src/auto_bot_tuner/rlhf/loss.py",
        answers=False,
    ),
    Stage(
        "dpo",
        dpo,
        "The answering model learns from the same comparisons directly, without a reward model.",
        "gold score and win rate beside accuracy: what is liked should be learnt, what is true not forgotten.",
        "src/auto_bot_tuner/dpo/loss.py",
    ),
    Stage(
        "ppo",
        ppo,
        "It writes answers itself, the reward model scores them, and it learns from the scores.",
        "reward beside gold score, at temperature 1 most of all: a reward that rises alone would mean that the policy "
        "has found where its judge errs.",
        "src/auto_bot_tuner/rlhf/ppo_trainer.py",
    ),
    Stage(
        "grpo",
        grpo,
        "It tries puzzles, lists to sort downwards, several times each. Nobody shows it how: code says right or wrong.",
        "the puzzles at temperature 1, and at the other tasks, which should stay.",
        "src/auto_bot_tuner/grpo/loss.py",
    ),
)
PUZZLED = ("sft", "grpo")  # the stages that are asked tiny-puzzles: before, and after what is trained on them


def run(arguments: Arguments) -> None:
    """Make and measure each stage, then print the tables and some answers, and write the page.

    Raises:
        UserError: a stage fails.
        UsageError: the JSON file cannot be written.
    """
    rows = held_out_rows("tiny-instructions", arguments.quick)
    pairs = held_out_rows("tiny-preferences", arguments.quick)
    puzzles = held_out_rows("tiny-puzzles", arguments.quick)
    models: dict[str, str] = {}
    results: list[Result] = []
    check_writable(arguments.json)
    for number, stage in enumerate(STAGES, start=1):
        introduce(stage, number)
        started = time.perf_counter()
        models[stage.name] = stage.make(arguments, models)
        result = Result(stage.name, time.perf_counter() - started)
        if stage.answers:
            measure_answers(result, models, rows, results)
        else:
            measure_scores(result, models, pairs)
        if stage.name in PUZZLED:
            measure_puzzles(result, models, puzzles)
        say("\n" + fill(f"{stage.name}: {found(result, results)}"))
        results.append(result)
        reward_of_answers(results, models)
        # Written after each stage: what is done is not lost when a later one fails.
        write_json(arguments.json, {"stages": [result.as_json() for result in results]})
    show(results, rows)
    close(arguments, results, rows)


def introduce(stage: Stage, number: int) -> None:
    """What comes now, where to look when it is over, and which file to read meanwhile."""
    say(f"\n── Stage {number} of {len(STAGES)}: {stage.name} " + "─" * (44 - len(stage.name)))
    say(fill(stage.does))
    say(fill(f"Look at {stage.look}"))
    say(f"Read {stage.read}")


def close(arguments: Arguments, results: list[Result], rows: list[dict[str, Any]]) -> None:
    """The page, and where it is. What is on the terminal by now is not lost when it cannot be written."""
    words = {stage.name: {"does": stage.does, "look": stage.look, "read": stage.read} for stage in STAGES}
    if arguments.quick:
        say("\nThe quick demo shows the way. PPO and GRPO need more steps: leave --quick out.")
    page = write_demo_report(Path(arguments.output_dir), results, words, rows, arguments.quick)
    talk = f"python main.py chat {shlex.quote(str(Path(arguments.output_dir) / 'dpo' / 'final'))}"
    say(f"\nThe report of it all: {page} (open it in a browser)\nTalk to what came out: {talk}")


def fill(text: str) -> str:
    """Lines of a terminal's usual width, broken between words."""
    return textwrap.fill(text, 79, break_on_hyphens=False, break_long_words=False)


def trained(method: str, model: str, arguments: Arguments, **training: Any) -> str:
    """The model that a method makes of `model` by its shipped config, in the demo's folder.

    `training`: settings that name models of earlier stages, over those of the config.
    """
    import importlib

    from auto_bot_tuner.utils.run_config import load_run_config
    from commands import CONFIGS
    from commands.train_config import RECIPES

    folder = Path(arguments.output_dir) / method
    preset = CONFIGS / f"{method}_tiny_{'quick' if arguments.quick else 'standard'}.yaml"
    training |= {"output_dir": str(folder), "overwrite": True}
    overrides = {"model": {"name": model}, "training": training}
    importlib.import_module(RECIPES[method]).train(load_run_config(preset, overrides))
    return str(folder / "final")


def held_out_rows(dataset: str, quick: bool) -> list[dict[str, Any]]:
    """The test split's rows, or some of them: no question in it was trained on, in any wording."""
    from auto_bot_tuner.assets import bundled_dataset

    path = bundled_dataset(dataset, "test")
    if path is None:
        raise UserError(
            f"the bundled data set {dataset} is missing: make it with python -m auto_bot_tuner.assets.make_world"
        )
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return rows[:: len(rows) // QUICK_PROMPTS] if quick else rows  # every task keeps its share
