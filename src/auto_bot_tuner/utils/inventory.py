"""What is here: runs with what they came to, models and data sets that need no network. Reads small files, no torch.

The menu shows it and proposes from it. Everything is read from the folders as they are: a run that another program
wrote, or an older one without `run.json`, is described by what it left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from auto_bot_tuner.training.lineage import possible_runs
from auto_bot_tuner.training.lock import LOCK, owner_of
from auto_bot_tuner.training.run_folder import checkpoints, newest_checkpoint
from auto_bot_tuner.training.soundness import STATE_FILE
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.json_files import count_in, read_object
from auto_bot_tuner.utils.strict_yaml import read_yaml

if TYPE_CHECKING:
    from auto_bot_tuner.training.lineage import Ancestor

Status = Literal["finished", "interrupted", "running", "failed"]

MARKS = ("run.json", "config.yaml", "metrics.jsonl", LOCK)  # any of them makes a folder a run's
DEEPEST = 4  # checkpoints/demo/sft is two below the root; a few more for people who sort
# The one figure of an evaluation that says most about a model of this method, and how it is written.
MAIN_FIGURES = {"sft": "loss", "reward": "accuracy", "dpo": "accuracy", "ppo": "reward", "grpo": "reward"}
NAMELESS = "a model without a name"  # run.json's words for weights that a program made
TAIL = 100_000  # bytes at the end of metrics.jsonl in which the last step and evaluation stand


@dataclass(frozen=True)
class RunFound:
    """A folder that a run wrote, and what became of the run."""

    folder: Path
    method: str  # sft, reward, dpo, ppo, grpo; empty where nothing says it
    model: str  # what it started from, as the run was told; empty where nothing says it
    status: Status  # failed: it ended, and left neither a model nor a checkpoint to go on from
    step: int
    total: int | None  # of the steps, where something says it
    evaluation: dict[str, float]  # the last one, without the prefix eval_
    changed: float  # seconds since 1970

    @property
    def final(self) -> Path:
        return self.folder / "final"

    @property
    def is_resumable(self) -> bool:
        return self.status == "interrupted" and (self.folder / "config.yaml").is_file()

    @property
    def figure(self) -> str:
        """`loss 0.080`; empty where nothing was evaluated."""
        name = MAIN_FIGURES.get(self.method, "loss")
        value = self.evaluation.get(name)
        if value is None:
            return ""
        return f"{name} {value:.0%}" if name == "accuracy" else f"{name} {value:.3g}"

    @cached_property
    def lineage(self) -> list[Ancestor]:
        """The models before this one, oldest first, and this one."""
        from auto_bot_tuner.training.lineage import lineage_of

        return lineage_of(str(self.folder))

    @cached_property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def runs(root: Path) -> list[RunFound]:
    """The runs below `root`, the one that changed last first. No such folder: none."""
    found = [read_run(folder) for folder in run_folders(root)]
    return sorted(found, key=lambda run: (-run.changed, str(run.folder)))


def run_folders(root: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """Folders with the marks of a run, in `root` and below."""
    try:
        inner = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return
    if any((root / mark).is_file() for mark in MARKS):
        yield root
    if depth > 0:
        for name in inner:
            if name not in ("final", "tensorboard") and not name.startswith("checkpoint-"):
                yield from run_folders(root / name, depth - 1)


def read_run(folder: Path) -> RunFound:
    """What the files of a run's folder say. What cannot be read is as if it were not there."""
    record = read_object(folder / "run.json")
    config: dict[str, Any] = {}
    with contextlib.suppress(UserError):
        config = read_yaml(folder / "config.yaml")
    step, evaluation = last_words(folder / "metrics.jsonl")
    total = count_in(record, "total_steps") or planned_steps(folder)
    status, checkpoint = status_of(folder, str(record.get("status", ""))), newest_checkpoint(folder)
    if status == "interrupted" and checkpoint is not None:  # the log is written now and then, and may be ahead as well
        step = int(checkpoint.name.rpartition("-")[2])
    return RunFound(
        folder=folder,
        method=str(record.get("method") or config.get("method") or ""),
        model=name_in(config) or name_in(record) or parent_of(record),
        status=status,
        step=step,
        total=total,
        evaluation=evaluation,
        changed=max(path.stat().st_mtime for path in [folder, *(folder / m for m in MARKS)] if path.exists()),
    )


def name_in(found: dict[str, Any]) -> str:
    """`model.name` of a config.yaml or a run.json; empty where it has none."""
    model = found.get("model")
    name = str((model.get("name") if isinstance(model, dict) else "") or "")
    return "" if name == NAMELESS else name


def parent_of(record: dict[str, Any]) -> str:
    """What stands before the run in the lineage that it wrote down; a reward model that taught it is no parent."""
    line = record.get("lineage")
    before = [step for step in line[:-1] if isinstance(step, dict)] if isinstance(line, list) else []
    names = [str(step.get("name") or "") for step in before if step.get("method") != "reward"]
    return names[-1] if names and names[-1] != NAMELESS else ""


def status_of(folder: Path, said: str) -> Status:
    """What became of the run. `said`: run.json's word, which a run that was killed could not take back."""
    if owner_of(folder) is not None:
        return "running"
    has_final = (folder / "final").is_dir()
    if has_final and said in ("", "finished"):
        return "finished"
    return "interrupted" if newest_checkpoint(folder) is not None else "finished" if has_final else "failed"


def planned_steps(folder: Path) -> int | None:
    """The run's length as a checkpoint remembers it (a constant learning rate has no fixed one: None)."""
    for checkpoint in reversed(checkpoints(folder)):
        if steps := count_in(read_object(checkpoint / STATE_FILE).get("shape"), "total_steps"):
            return steps
    return None


def last_words(metrics: Path) -> tuple[int, dict[str, float]]:
    """(last step, last evaluation) of a metrics.jsonl; only its end is read."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0, {}
    step = 0
    evaluation: dict[str, float] = {}
    for line in lines:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # cut by our reading, or by a kill
            continue
        if not isinstance(values, dict):
            continue
        step = max(step, count_in(values, "step"))
        of_evaluation = {
            name.removeprefix("eval_"): float(value)
            for name, value in values.items()
            if name.startswith("eval_") and isinstance(value, (int, float)) and abs(value) < 1e300
        }
        evaluation = of_evaluation or evaluation
    return step, evaluation


def run_of_model(name: str) -> Path | None:
    """The run's folder that a model's name points into: RUN, RUN/final or RUN/checkpoint-N; None for other names."""
    return next((folder for folder in possible_runs(name) if any((folder / mark).is_file() for mark in MARKS)), None)
