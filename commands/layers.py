"""What lies below the flags of a train verb: a preset, or the YAML file that it names."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, DatasetConfig
from auto_bot_tuner.training.lineage import lineage_of
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.run_config import RunConfig, load_run_config
from auto_bot_tuner.utils.settings import settings_of
from commands import CONFIGS

GENERAL_FAMILY = "gpt2"  # its presets serve every model that has none of its own


@dataclass(config=STRICT, kw_only=True)
class RunArguments(RunConfig):
    """A run, and two flags that concern only the command."""

    # What is trained by: the settings say it.
    method: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = ""
    # Start from a shipped file, configs/METHOD_MODEL_PRESET.yaml: quick (a look) or standard (a real run). Flags win
    # over it.
    preset: Annotated[str, tyro.conf.arg(metavar="quick|standard")] = ""
    # Everything but the steps: data, derived numbers, memory by part, time, and what makes it fit; then stop.
    dry_run: bool = False

    def __post_init__(self) -> None:
        self.method = getattr(self.training, "METHOD", self.method)


Arguments = TypeVar("Arguments", bound=RunArguments)


def flags_before(argv: Sequence[str], *names: str, positional: bool = False) -> argparse.Namespace:
    """A first look at a few flags that decide which file lies below all the others; tyro reads them again later."""
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        look.add_argument(f"--{name}", default="")
    try:
        found, others = look.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    if positional:
        found.path = config_file(others)
    return found


def config_file(words: Sequence[str]) -> str:
    """The config file among words that may be flags and their values; empty where there is none.

    >>> config_file(["--learning-rate", "1e-4", "mine.yaml", "--seed", "7"])
    'mine.yaml'
    """
    plain = [i for i, word in enumerate(words) if not word.startswith("-")]
    by_name = [words[i] for i in plain if words[i].lower().endswith((".yaml", ".yml"))]
    # Without the usual suffix: a word that cannot be a flag's value, else the first (`--dry-run FILE`).
    by_place = [words[i] for i in plain if i == 0 or i - 1 in plain or "=" in words[i - 1]]
    return next(iter([*by_name, *by_place, *(words[i] for i in plain)]), "")


def under_flags(dataset: DatasetConfig, argv: Sequence[str]) -> DatasetConfig:
    """The layers' `dataset` for flags that replace what it names: `--mix` its name, `--dataset` its mix."""
    flags = {word.partition("=")[0] for word in argv}
    if "--mix" in flags:
        # Also a mix below goes: tyro would make a flag of each of its names, and know no --mix.
        return dataclasses.replace(dataset, name=dataset.name if "--dataset" in flags else "", mix={})
    return dataclasses.replace(dataset, mix={}) if "--dataset" in flags else dataset


def preset_path(method: str, model: str, preset: str) -> Path | None:
    """The preset's file for this model's family (`tiny`), else the general one; None where no preset is asked for.

    The family is the model's name, or that of the model which its run started from, as the run's config.yaml says.

    Raises:
        UsageError: this method has no such preset.
    """
    if not preset:
        return None
    for candidate in (Path(origin(model)).name.lower(), GENERAL_FAMILY):
        path = CONFIGS / f"{method}_{candidate}_{preset}.yaml"
        if path.exists():
            return path
    names = sorted({path.stem.split("_")[-1] for path in CONFIGS.glob(f"{method}_*_*.yaml")})
    raise UsageError(f"no preset {preset!r} for {method}: there are {', '.join(names)} (files configs/{method}_*.yaml)")


def origin(model: str) -> str:
    """The model at the beginning: of checkpoints/dpo/final, which was trained from checkpoints/sft/final, say tiny."""
    return lineage_of(model)[0].name if model else ""


def preset_layers(arguments_class: type[Arguments], argv: Sequence[str]) -> Arguments | None:
    """The `Arguments` of a train verb that `--preset` in these flags describes, or None without one."""
    own: type = arguments_class
    method = next(setting.default.METHOD for setting in settings_of(own) if setting.name == "training")
    look = flags_before(argv, "preset", "model")
    path = preset_path(method, look.model, look.preset)
    if path is None:
        return None
    below = load_run_config(None, preset=path, method=method)
    return arguments_class(model=below.model, dataset=under_flags(below.dataset, argv), training=below.training)
