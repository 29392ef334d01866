"""Where a model comes from: base → SFT → reward model → PPO, read from what each run left in its folder.

Needs no torch: a menu and a preset ask this before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from auto_bot_tuner.utils.json_files import read_object
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.strict_yaml import read_yaml

BASE = "base"  # the method of a model that no run of ours has made
ADAPTER = "adapter"  # of an adapter that came from elsewhere, without its run
RUN_FILE, CONFIG_FILE = "run.json", "config.yaml"


class Ancestor(NamedTuple):
    """A step of the way: the run's folder (of a base: its name), and the method that it was made by."""

    name: str
    method: str


def lineage_of(name: str) -> list[Ancestor]:
    """The line of the model called `name`, itself included, oldest first; a name that no run has made is a base.

    Args:
        name: hub id, bundled name, or folder: a run's, its final/, final/adapter/ or a checkpoint-N.
    """
    return _line(name, frozenset())


def line_of_run(
    name: str, method: str, model: str, reward_models: Iterable[str] = (), seen: frozenset[Path] = frozenset()
) -> list[Ancestor]:
    """The line of a run: that of its model, the runs of the reward models that taught it, and the run itself."""
    line = _line(model, seen)
    for reward_model in reward_models:
        taught = _line(reward_model, seen)
        if taught[-1].method == BASE:  # a reward model from elsewhere is no ancestor of the weights
            taught = [Ancestor(taught[-1].name, "reward")]
        line += [step for step in taught if step.method != BASE and step not in line]
    return [*line, Ancestor(name, method)]


def _line(name: str, seen: frozenset[Path]) -> list[Ancestor]:
    run = run_folder_of(name)
    if run is None:
        folder = expanded(name)
        base = base_of_adapter(folder)
        if not base or folder.resolve() in seen:  # adapters that name each other
            return [Ancestor(name, BASE)]
        return [*_line(base, seen | {folder.resolve()}), Ancestor(name, ADAPTER)]
    if recorded := recorded_line(run):  # as it was when the run was made: an ancestor's folder may hold another since
        return [*recorded[:-1], Ancestor(short(run), recorded[-1].method)]
    config = config_of(run)
    if config is None or run.resolve() in seen:  # files that name each other
        return [Ancestor(name, BASE)]
    return line_of_run(short(run), *config, seen=seen | {run.resolve()})


def run_folder_of(name: str) -> Path | None:
    """The folder of the run that made this model, or None."""
    return next((folder for folder in possible_runs(name) if recorded_line(folder) or config_of(folder)), None)


def possible_runs(name: str) -> list[Path]:
    """Where a model's run may lie: the folder named, and what is above a final/, final/adapter/ or checkpoint-N."""
    path = expanded(name)
    above = {"adapter": [path.parent.parent], "final": [path.parent]}.get(path.name, [])
    return [path, *above, *([path.parent] if path.name.startswith("checkpoint-") else [])]


def recorded_line(folder: Path) -> list[Ancestor]:
    """The line that the run in this folder wrote down; empty where it did not (an older run, no run)."""
    steps = read_record(folder).get("lineage")
    try:
        return [Ancestor(str(step["name"]), str(step["method"])) for step in steps or []]
    except (KeyError, TypeError):
        return []


def read_record(folder: Path) -> dict[str, Any]:
    """run.json of a run's folder; empty where there is none, or none that can be read."""
    return read_object(folder / RUN_FILE)


def config_of(folder: Path) -> tuple[str, str, tuple[str, ...]] | None:
    """(method, model, reward models) of a run's config.yaml; None where there is none, or that of another tool."""
    try:
        values = read_yaml(folder / CONFIG_FILE)
        training = values.get("training", {})
        # A named reward is [WEIGHT*]NAME, and a folder among them is a reward model's.
        named = [str(name).rpartition("*")[2].strip() for name in training.get("reward", ())]
        rewards = [*training.get("reward_model", ()), *(name for name in named if expanded(name).is_dir())]
        names = [str(values["model"]["name"]), *map(str, rewards)]
        if not all(map(can_be_a_path, names)):
            return None
        return str(values.get("method") or "run"), names[0], tuple(names[1:])
    except (ValueError, KeyError, TypeError, AttributeError, OSError):  # what a file says may be anything
        return None


def base_of_adapter(folder: Path) -> str:
    """The base that an adapter's own config names; empty where the folder holds no adapter."""
    name = read_object(folder / "adapter_config.json").get("base_model_name_or_path")
    return name if isinstance(name, str) and can_be_a_path(name) else ""


def can_be_a_path(name: str) -> bool:
    """Whether the system would look for such a file at all: a name in a file may be of any length and any user's."""
    try:
        expanded(name).exists()
    except (ValueError, OSError):
        return False
    return True


def short(path: Path) -> str:
    """A folder as one would type it here: relative where it lies below the working directory."""
    full, here = path.resolve(), Path.cwd()
    return str(full.relative_to(here)) if full != here and full.is_relative_to(here) else str(full)
