"""What was measured: one noun for every line of the benchmark, and the record that all lines make up together.

A record is of one machine, one state of the code and one set of versions. Lines of two such settings never meet in one
table: a ratio of today beside a ratio of last month's code says nothing.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spread:
    """The median of paired measurements, with the smallest and the largest beside it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.2f}"
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


@dataclass(frozen=True)
class Result:
    """One configuration's figures by name; "peer …" is the other side's. Units stand in the names, ratios have none."""

    name: str
    figures: dict[str, Spread]
    difference: float | None = None  # the largest, of what both sides must agree in; None: there is no other side
    tolerance: float = 0.0
    rounds: int = 0
    seconds: float = 0.0  # that measuring took
    # A part's own rows, e.g. each command's seconds.
    details: dict[str, list[float]] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether both sides did the same work. Written so that a NaN disagrees."""
        return self.difference is None or self.difference <= self.tolerance

    def get(self, figure: str) -> float | None:
        return self.figures[figure].median if figure in self.figures else None


@dataclass
class Record:
    """Results by configuration, of one setting."""

    setting: dict[str, Any]  # machine, versions, code: see machine.py
    made: str  # the day
    results: dict[str, Result] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Every figure by "configuration.figure", its ends as "figure low" and "figure high": reasons cite them."""
        found = {}
        for result in self.results.values():
            for name, spread in result.figures.items():
                key = f"{result.name}.{name}"
                found |= {key: spread.median, f"{key} low": spread.low, f"{key} high": spread.high}
        return found

    def save(self, path: Path) -> None:
        """Whole or not at all: a run may be stopped while it writes."""
        stored = asdict(self)
        for result in stored["results"].values():
            result["figures"] = {name: [*map(_short, spread.values())] for name, spread in result["figures"].items()}
            result["seconds"] = round(result["seconds"], 1)
        text = re.sub(r"\[[^\[\]]*\]", lambda found: " ".join(found[0].split()), json.dumps(stored, indent=1))
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(path)

    @classmethod
    def load(cls, path: Path) -> Record | None:
        """The record of a file; None where there is none, or one that another version of this code wrote."""
        if not path.exists():
            return None
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            results = {name: _result(result) for name, result in stored["results"].items()}
            return cls(stored["setting"], stored["made"], results)
        except (ValueError, KeyError, TypeError):
            return None

    def take_over(self, other: Record | None) -> None:
        """Lines that another run measured, if it is of the same setting; a line that is here already stays."""
        if other is not None and other.setting == self.setting:
            self.results = other.results | self.results


def _short(value: float) -> float:
    """Five digits: more would be noise."""
    return float(f"{value:.5g}")


def _result(stored: Mapping[str, Any]) -> Result:
    figures = {name: Spread(*spread) for name, spread in stored["figures"].items()}
    return Result(**{**stored, "figures": figures})
