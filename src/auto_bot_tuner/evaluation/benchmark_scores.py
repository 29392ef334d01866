"""What lm-eval found, as a list of scores with intervals. Pure: no lm-eval, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from auto_bot_tuner.evaluation.intervals import Z_95, Share


@dataclass(frozen=True)
class Score:
    """One metric of one task."""

    task: str
    metric: str  # "acc", or with the filter that picks the answer from the response: "exact_match (strict-match)"
    value: float
    stderr: float | None  # None where lm-eval has none
    interval: tuple[float, float] | None  # 95 %
    questions: int
    shots: int  # solved examples before each question
    higher_is_better: bool


def scores_of(results: Mapping[str, Any]) -> list[Score]:
    """lm-eval's `{"results": {task: {"acc,none": 0.5, "acc_stderr,none": 0.1}}, …}` as a list."""
    found = []
    for task, values in results["results"].items():
        better = results.get("higher_is_better", {}).get(task, {})
        for key, value in values.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            stderr = values.get(f"{metric}_stderr,{filter_name}")
            stderr = float(stderr) if isinstance(stderr, (int, float)) else None
            marks = [row[metric] for row in results["samples"].get(task, ()) if row["filter"] == filter_name]
            questions = len(marks) or int(values.get("sample_len", 0))
            found.append(
                Score(
                    task=task,
                    metric=metric if filter_name == "none" else f"{metric} ({filter_name})",
                    value=float(value),
                    stderr=stderr,
                    interval=interval_of(float(value), stderr, marks),
                    questions=questions,
                    shots=int(results["n-shot"].get(task, 0) or 0),
                    higher_is_better=better.get(metric) is not False,
                )
            )
    return found


def interval_of(value: float, stderr: float | None, marks: Sequence[Any]) -> tuple[float, float] | None:
    """95 %: Wilson's where each question is right or wrong, else ± 1.96 standard errors.

    Three right of three have a standard error of 0, and are no certainty: Wilson's interval knows it.
    """
    is_share = bool(marks) and all(mark in (0, 1) for mark in marks)
    if is_share and abs(value - sum(marks) / len(marks)) < 1e-9:
        return Share(sum(marks), len(marks)).interval
    return None if stderr is None else (value - Z_95 * stderr, value + Z_95 * stderr)
