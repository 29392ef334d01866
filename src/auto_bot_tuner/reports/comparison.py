"""Several runs on one page: in what they differ, what each came to, their curves laid over each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from auto_bot_tuner.reports.curves import FIRST, Curve, curve_of, names_of
from auto_bot_tuner.reports.drawing import Line
from auto_bot_tuner.reports.headline import facts_of
from auto_bot_tuner.reports.numbers import shown
from auto_bot_tuner.reports.pages import write_page
from auto_bot_tuner.reports.run_files import EVAL, RunFiles, is_number, read_run
from auto_bot_tuner.reports.samples import MOST_PROMPTS, Answer, by_prompt, changed
from auto_bot_tuner.reports.settings_table import differing

STYLES = 6  # colours and dashes that can be told apart
LOWER_IS_BETTER = ("loss", "perplexity")
HIGHER_IS_BETTER = ("accuracy", "reward", "reward_correct", "eos_rate")


class Column(NamedTuple):
    """A run as the tables head it."""

    name: str
    style: str
    method: str
    link: str  # its own report, relative to this page; empty where there is none
    facts: dict[str, str]


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """Write a page that lays the runs in `folders` side by side.

    Raises:
        UserError: one of them holds no metrics yet, or the page cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    names = short_names(folders)
    columns = [column_of(run, name, i, path) for i, (run, name) in enumerate(zip(runs, names, strict=True))]
    first, other = laid_over(runs, columns)
    differences = differing(runs)
    return write_page(
        path,
        "comparison.html",
        title=f"{len(runs)} runs: {', '.join(names)}",
        columns=columns,
        facts=list(dict.fromkeys(fact for column in columns for fact in column.facts)),
        differing=[row for row in differences if row.values.count("") < len(runs) - 1],
        of_one_method=[row for row in differences if row.values.count("") >= len(runs) - 1],
        evaluations=final_evaluations(runs),
        curves=first,
        other_curves=other,
        samples=side_by_side(runs),
    )


def short_names(folders: Sequence[Path]) -> list[str]:
    """The folders without the beginning that all of them share.

    >>> short_names([Path("runs/a/sft"), Path("runs/b/sft")])
    ['a/sft', 'b/sft']
    """
    absolute = [Path(os.path.abspath(folder)) for folder in folders]
    common = Path(os.path.commonpath([folder.parent for folder in absolute]))
    return [str(folder.relative_to(common)) for folder in absolute]


def column_of(run: RunFiles, name: str, place: int, page: Path) -> Column:
    report = run.folder / "report.html"
    link = quote(os.path.relpath(report, page.parent)) if report.is_file() and report != page else ""
    return Column(name, f"run-{place % STYLES + 1}", run.method or "run", link, dict(facts_of(run)))


def laid_over(runs: Sequence[RunFiles], columns: Sequence[Column]) -> tuple[list[Curve], list[Curve]]:
    """Charts with a line for each run: of what was logged by at least two of them, and of the rest."""
    methods = dict.fromkeys(run.method for run in runs)
    look_at = dict.fromkeys(name for method in methods for name in FIRST.get(method, ()))
    method = runs[0].method if len(methods) == 1 else ""
    first: list[Curve] = []
    other: list[Curve] = []
    for name in dict.fromkeys([*look_at, *names_of(runs)]):
        lines = [line for run, column in zip(runs, columns, strict=True) if (line := line_of(run, column, name)).points]
        curve = curve_of(name, method, lines)
        if curve is not None:
            (first if name in look_at and len(lines) > 1 else other).append(curve)
    return first, other


def line_of(run: RunFiles, column: Column, name: str) -> Line:
    """Training as it was logged, as evaluations may be two points; where only they have the metric, they."""
    points = run.points(name)
    return Line(column.name, points or run.points(name, evaluated=True), column.style, has_dots=not points)


def final_evaluations(runs: Sequence[RunFiles]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Metric → of each run (last evaluation, `best` or nothing); best where a direction is better for sure, and the
    runs are of one method: the loss of another is another number."""
    is_one_method = len({run.method for run in runs}) == 1
    last = [run.evaluations[-1] if run.evaluations else {} for run in runs]
    rows = []
    for name in dict.fromkeys(key for row in last for key in row if key.startswith(EVAL)):
        values = [row.get(name) for row in last]
        best = best_of(name.removeprefix(EVAL), [value for value in values if is_number(value)])
        marks = ["best" if is_one_method and best is not None and value == best else "" for value in values]
        rows.append((name, list(zip((shown(name, value) for value in values), marks, strict=True))))
    return rows


def best_of(name: str, values: Sequence[float]) -> float | None:
    if len(set(values)) < 2:
        return None
    return min(values) if name in LOWER_IS_BETTER else max(values) if name in HIGHER_IS_BETTER else None


def side_by_side(runs: Sequence[RunFiles]) -> list[tuple[str, list[Answer | None]]]:
    """Prompts that at least two runs answered, with the last answer of each; those where these differ first."""
    told: list[Mapping[tuple[str, int], list[Answer]]] = [by_prompt(run) for run in runs]
    prompts = dict.fromkeys(prompt for answers in told for prompt in answers)
    shared = [prompt for prompt in prompts if sum(prompt in answers for answers in told) > 1]
    last = {prompt: [answers[prompt][-1] if prompt in answers else None for answers in told] for prompt in shared}
    differing = {prompt[0] for prompt, answers in last.items() if changed([answer for answer in answers if answer])}
    # The answers to one prompt stay together, be they several.
    texts = list(dict.fromkeys(text for text, _ in shared))
    places = {text: place for place, text in enumerate(sorted(texts, key=lambda text: text not in differing))}
    return [(prompt[0], last[prompt]) for prompt in sorted(shared, key=lambda prompt: places[prompt[0]])[:MOST_PROMPTS]]
