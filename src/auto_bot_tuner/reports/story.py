"""The page of the demo: a base model becomes an assistant, stage by stage, with the figures and the answers of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import UndefinedError

from auto_bot_tuner.reports.headline import Figure
from auto_bot_tuner.reports.numbers import MINUS, SHARES, shown
from auto_bot_tuner.reports.pages import write_page
from auto_bot_tuner.reports.run_files import Row, is_number
from auto_bot_tuner.utils.durations import duration
from auto_bot_tuner.utils.errors import UserError, one_line
from auto_bot_tuner.utils.json_files import read_object

RESULTS = "results.json"  # what the demo measured, beside the folders of its stages
FIGURES = ("accuracy", "ended", "gold", "gold_sampled", "reward", "kl", "seconds")
CHARTS = {
    "accuracy": (
        "Accuracy",
        "Exact answers to held-out questions. Imitation brings it; the later stages must keep it.",
    ),
    "gold_sampled": (
        "Gold score, sampled",
        "What answers at temperature 1 are truly worth, by code that knows the truth.",
    ),
    "reward": (
        "Learned reward",
        "What the reward model thinks of the answers. It should rise with gold, not instead.",
    ),
}
EDGES = (0.25, 0.5, 0.7, 0.85, 0.95, 1.0)  # of the six shades of a task's share
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 340, 176, 4, 22, 24


class Bar(NamedTuple):
    label: str
    value: str
    x: float
    y: float
    width: float
    height: float
    value_y: float
    style: str


class Bars(NamedTuple):
    name: str
    title: str
    should: str
    bars: list[Bar]
    zero: float
    summary: str


def is_story(folder: Path) -> bool:
    """Whether a demo left its results here."""
    return isinstance(read_object(folder / RESULTS).get("stages"), list)


def write_story(folder: Path) -> Path:
    """Write `folder/report.html` from `folder/results.json`.

    Raises:
        UserError: there are no results, or the page cannot be written.
    """
    story = read_object(folder / RESULTS)
    stages = [stage for stage in story.get("stages") or [] if isinstance(stage, dict) and "name" in stage]
    if not stages:
        raise UserError(f"{folder / RESULTS} holds no stages: run the demo again")
    try:
        return write_stages(folder, story, stages)
    except (AttributeError, KeyError, TypeError, UndefinedError) as error:
        raise UserError(
            f"{folder / RESULTS} is not what a demo wrote ({one_line(error)}): run the demo again"
        ) from error


def write_stages(folder: Path, story: Row, stages: Sequence[Row]) -> Path:
    """The page of these stages."""
    answering = [stage for stage in stages if "accuracy" in stage]
    return write_page(
        folder / "report.html",
        "story.html",
        title="The demo: from a base model to an assistant",
        quick=bool(story.get("quick")),
        stages=stages,
        answering=answering,
        links={stage["name"]: link for stage in stages if (link := link_of(folder, stage))},
        took=duration(sum(stage["seconds"] for stage in stages if is_number(stage.get("seconds")))),
        cards=cards_of({stage["name"]: stage for stage in stages}),
        charts=[bars for name, words in CHARTS.items() if (bars := bars_of(name, *words, answering))],
        figures=stage_rows(stages),
        pairs=[pair for stage in stages for pair in stage.get("pair_table", [])],
        puzzles=[stage for stage in stages if "puzzle_table" in stage],
        tasks=task_rows(answering),
        wins=[(stage["name"], win) for stage in stages for win in stage.get("win_table", [])],
        samples=story.get("samples") or [],
    )


def cards_of(stages: Mapping[str, Row]) -> list[Figure]:
    """The story in four figures; those of stages that are not there are left out."""
    wanted = (
        ("exact answers, base → sft", ("base", "sft"), "accuracy"),
        ("dpo better than sft", ("dpo",), "win_rate"),
        ("reward, sft → ppo", ("sft", "ppo"), "reward"),
        ("puzzles at T = 1, sft → grpo", ("sft", "grpo"), "puzzles_sampled"),
    )
    cards = []
    for label, names, name in wanted:
        values = [stages.get(stage, {}).get(name) for stage in names]
        if all(is_number(value) for value in values):
            told = [figure(name, value) for value in values]
            cards.append(Figure(label, told[0] if len(told) > 1 else "", told[-1], ""))
    return cards


def link_of(folder: Path, stage: Row) -> str:
    page = Path(str(stage.get("report") or ""))
    return quote(str(page)) if page.name and (folder / page).is_file() else ""


def stage_rows(stages: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """Stage → its figures as text, those that it does not have empty."""
    rows = []
    for stage in stages:
        cells = [figure(name, stage.get(name)) for name in FIGURES]
        bounds = stage.get("interval") or []
        interval = "–".join(f"{100 * bound:.0f}" for bound in bounds) + "%" if bounds else ""
        rows.append((str(stage["name"]), [cells[0], interval, *cells[1:]]))
    return rows


def figure(name: str, value: Any) -> str:
    if not is_number(value):
        return ""
    if name == "seconds":
        return duration(value) if value >= 0.1 else ""
    return shown(name, value) if name in SHARES else f"{value:.2f}".replace("-", MINUS)


def task_rows(answering: Sequence[Row]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Task → (per cent, shade 0 to 6) of each stage."""
    tasks = dict.fromkeys(task for stage in answering for task in stage.get("tasks", {}))
    return [(task, [heat(stage.get("tasks", {}).get(task)) for stage in answering]) for task in tasks]


def heat(share: Any) -> tuple[str, int]:
    """The upper half is where models differ: 92 and 100 per cent are to be told apart at a glance."""
    return (f"{100 * share:.0f}", sum(share >= edge for edge in EDGES)) if is_number(share) else ("", 0)


def bars_of(name: str, title: str, should: str, stages: Sequence[Mapping[str, Any]]) -> Bars | None:
    """One column for each stage, upwards or downwards from 0."""
    known = [(str(stage["name"]), float(stage[name])) for stage in stages if is_number(stage.get(name))]
    if not known:
        return None
    values = [value for _, value in known]
    low, high = min(0.0, *values), max(1.0 if name == "accuracy" else 0.0, *values)
    # Room below the lowest column for its number.
    bottom = HEIGHT - BOTTOM - (14 if low < 0 else 0)
    unit = (bottom - TOP) / ((high - low) or 1.0)
    zero = round(TOP + high * unit, 1)
    slot = (WIDTH - 2 * LEFT) / len(known)
    bars = []
    for i, (label, value) in enumerate(known):
        height = round(abs(value) * unit, 1)
        top = round(zero - height, 1) if value >= 0 else zero
        value_y = top - 5 if value >= 0 else top + height + 12
        text = shown(name, value) if name == "accuracy" else f"{value:.2f}".replace("-", MINUS)
        x = round(LEFT + i * slot + 0.18 * slot, 1)
        bars.append(Bar(label, text, x, top, round(0.64 * slot, 1), height, round(value_y, 1), "train"))
    summary = ", ".join(f"{bar.label} {bar.value}" for bar in bars)
    return Bars(name, title, should, bars, zero, summary)
