"""The whole pipeline on the bundled world, stage by stage, each measured on the same held-out prompts.

A stage makes a model out of those before it; a later chapter adds its own to `STAGES`. Nothing here is special to the
demo: every stage calls what its own verb calls, and says with which line you can repeat it. How a stage is measured and
shown: `demo_results.py`.
"""

from __future__ import annotations

import json
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
    show,
)
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
    # Folder of the runs; those of an earlier demo in it are overwritten.
    output_dir: str = "checkpoints/demo"


Models = Mapping[str, str]  # stage → name or folder of its model


class Stage(NamedTuple):
    """A step of the pipeline."""

    name: str
    make: Callable[[Arguments, Models], str]  # trains where there is something to train; name or folder of its model
    look: str  # at what to look in its line of the table
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
        "it knows its world, yet asked like this it only goes on writing text: nobody has shown it what an answer is.",
        "src/auto_bot_tuner/assets/text.py",
    ),
    Stage(
        "sft",
        sft,
        "accuracy jumps and answers end by themselves; what is still wrong, the base model never knew.",
        "src/auto_bot_tuner/sft/loss.py",
    ),
    Stage(
        "reward",
        reward,
        "it ranks answers that it has never seen; manners come easily, right and wrong are hard: see each kind.",
        "src/auto_bot_tuner/rlhf/loss.py",
        answers=False,
    ),
    Stage(
        "dpo",
        dpo,
        "gold score and win rate rise while accuracy stays: it learned what is liked, without forgetting what is true.",
        "src/auto_bot_tuner/dpo/loss.py",
    ),
    Stage(
        "ppo",
        ppo,
        "reward and gold score rise together, at temperature 1 most of all, for little KL; a reward that rises alone "
        "would mean that the policy has found where its judge errs.",
        "src/auto_bot_tuner/rlhf/ppo_trainer.py",
    ),
    Stage(
        "grpo",
        grpo,
        "more of its puzzles, lists to sort downwards, come out right, though nobody showed it one: code said right or "
        "wrong; other tasks stay.",
        "src/auto_bot_tuner/grpo/loss.py",
    ),
)
PUZZLED = ("sft", "grpo")  # the stages that are asked tiny-puzzles: before, and after what is trained on them


def run(arguments: Arguments) -> None:
    """Make and measure each stage, then print the tables and some answers.

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
        say(f"\n── Stage {number} of {len(STAGES)}: {stage.name} ──")
        started = time.perf_counter()
        models[stage.name] = stage.make(arguments, models)
        result = Result(stage.name, time.perf_counter() - started)
        if stage.answers:
            measure_answers(result, models, rows, results)
        else:
            measure_scores(result, models, pairs)
        if stage.name in PUZZLED:
            measure_puzzles(result, models, puzzles)
        results.append(result)
        reward_of_answers(results, models)
        # Written after each stage: what is done is not lost when a later one fails.
        write_json(arguments.json, {"stages": [result.as_json() for result in results]})
    show(results, {stage.name: f"{stage.look} Read {stage.read}" for stage in STAGES}, rows)


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
