"""Train as a YAML file says: the same recipes as the train verbs, with the file below the flags."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, TrainingConfig
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.run_config import TRAINING_CLASSES, load_run_config, training_class
from commands.layers import RunArguments, flags_before, preset_path, under_flags
from commands.training import say_what_is_next

RECIPES = {method: f"commands.train_{method}" for method in TRAINING_CLASSES}


@dataclass(config=STRICT, kw_only=True)
class Arguments(RunArguments):
    """Train as a YAML file says. Flags win over the file, the file over --preset."""

    # The config file, e.g. configs/sft_gpt2_quick.yaml. With --help: show that file's values as the defaults.
    path: tyro.conf.Positional[str]
    # The method, where the file does not name one: sft, reward, dpo, ppo or grpo. Without either, the file's name
    # begins with it.
    type: str = ""
    # The settings of the method.
    training: TrainingConfig = field(default_factory=training_class("sft"))


def layers(argv: Sequence[str]) -> Arguments | None:
    """The file below the flags; without one, only `--help` has something to say."""
    look = flags_before(argv, "type", "preset", "model", positional=True)
    if not look.path:
        if "-h" in argv or "--help" in argv:
            return None
        raise UsageError("name the config file: python main.py train-config configs/sft_gpt2_quick.yaml")
    path = Path(look.path)
    config = load_run_config(path, method=look.type)
    if look.preset:
        preset = preset_path(config.method, look.model or config.model.name, look.preset)
        config = load_run_config(path, method=look.type, preset=preset)
    dataset = under_flags(config.dataset, argv)
    return Arguments(path=look.path, model=config.model, dataset=dataset, training=config.training)


def run(arguments: Arguments) -> None:
    """Call the recipe of the file's method."""
    importlib.import_module(RECIPES[arguments.method]).train(arguments, arguments.dry_run)
    say_what_is_next(arguments)
