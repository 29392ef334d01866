"""What a run left in its folder, read for people.

A report is asked for when a run is interrupted, half copied or years old. So whatever is missing or torn is left out,
and only a folder that holds no run at all is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.json_files import read_lines, read_object
from auto_bot_tuner.utils.strict_yaml import read_yaml

Row = dict[str, Any]
Points = list[tuple[float, float]]  # (step, value), in the order of the log

EVAL = "eval_"
SECTIONS = ("model", "dataset", "training")


@dataclass(frozen=True)
class RunFiles:
    """One run: its settings, and everything that it logged."""

    folder: Path
    config: Row = field(default_factory=dict)
    metrics: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)
    record: Row = field(default_factory=dict)  # run.json
    notes: list[Row] = field(default_factory=list)
    views: list[Row] = field(default_factory=list)  # token_views.jsonl

    @property
    def method(self) -> str:
        return str(self.config.get("method") or self.record.get("method") or "")

    @property
    def name(self) -> str:
        """As a person typed it; the folder that one stands in has no name of its own."""
        return str(self.folder if self.folder.name else self.folder.resolve())

    @cached_property
    def logs(self) -> list[Row]:
        """The training rows; an evaluation of the same step is a row of its own."""
        return [row for row in self.metrics if not any(key.startswith(EVAL) for key in row)]

    @cached_property
    def evaluations(self) -> list[Row]:
        return [row for row in self.metrics if any(key.startswith(EVAL) for key in row)]

    @property
    def last_step(self) -> int:
        return int(max((row["step"] for row in self.metrics), default=0))

    def points(self, name: str, evaluated: bool = False) -> Points:
        """The curve of a metric: every finite value that was logged."""
        rows, key = (self.evaluations, EVAL + name) if evaluated else (self.logs, name)
        return [(row["step"], row[key]) for row in rows if is_number(row.get(key))]

    def section(self, name: str) -> Row:
        """A section of config.yaml, without what is no mapping."""
        found = self.config.get(name)
        return found if isinstance(found, dict) else {}

    def recorded(self, name: str) -> Row:
        """An object of run.json, or an empty one."""
        found = self.record.get(name)
        return found if isinstance(found, dict) else {}


def is_number(value: Any) -> TypeGuard[float]:
    """Finite, and no integer of a thousand digits either, which JSON can spell."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def find_run(name: str | Path) -> Path:
    """The output_dir of a run, named by itself, by its final/ or by one of its checkpoints.

    Raises:
        UsageError: there is no run.
    """
    given = Path(name)
    if not given.is_dir():
        raise UsageError(f"there is no folder {given}: name the output_dir of a run")
    if any((given / file).is_file() for file in ("metrics.jsonl", "config.yaml", "run.json")):
        return given
    if (given.parent / "metrics.jsonl").is_file():  # final/ or checkpoint-N
        return given.parent
    inside = sorted(str(path.parent) for path in given.glob("*/metrics.jsonl"))
    hint = f"; there are runs in it: {', '.join(inside[:4])}" if inside else ""
    raise UsageError(f"{given} is not the folder of a run (no metrics.jsonl): name the output_dir of a run{hint}")


def read_run(folder: Path) -> RunFiles:
    """All that there is to know of a run.

    Raises:
        UserError: nothing was measured yet, so there is nothing to show.
    """
    metrics = [row for row in read_lines(folder / "metrics.jsonl") if is_number(row.get("step"))]
    if not metrics:
        raise UserError(f"{folder} has no metrics yet: wait for the run's first logged step, then ask again")
    return RunFiles(
        folder=folder,
        config=read_config(folder / "config.yaml"),
        metrics=metrics,
        samples=[row for row in read_lines(folder / "samples.jsonl") if is_number(row.get("step"))],
        record=read_object(folder / "run.json"),
        notes=[row for row in read_lines(folder / "notes.jsonl") if row.get("text")],
        views=[row for row in read_lines(folder / "token_views.jsonl") if is_view(row)],
    )


def is_view(row: Row) -> bool:
    series, tokens = row.get("series"), row.get("tokens")
    return (
        isinstance(tokens, list)
        and isinstance(series, dict)
        and all(isinstance(values, list) and len(values) == len(tokens) for values in series.values())
    )


def read_config(path: Path) -> Row:
    """config.yaml, as safely as settings are always read; empty where there is none to be read."""
    try:
        return read_yaml(path)
    except UsageError:
        return {}
