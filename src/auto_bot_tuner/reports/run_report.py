"""report.html of one run: what it was, what it came to, how it went, and how to do it again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from auto_bot_tuner.reports.curves import METHODS, curves_of
from auto_bot_tuner.reports.headline import facts_of, figures_of, findings_of, line_of
from auto_bot_tuner.reports.heatmap import panels_of
from auto_bot_tuner.reports.numbers import shown
from auto_bot_tuner.reports.pages import write_page
from auto_bot_tuner.reports.run_files import EVAL, Row, RunFiles, is_number, read_run
from auto_bot_tuner.reports.samples import stories_of
from auto_bot_tuner.reports.settings_table import settings_of

FILE = "report.html"
MOST_EVALUATIONS = 6  # columns of their table


def write_run_report(folder: Path) -> Path:
    """Write `folder/report.html` from the files of a run; the same files give the same page.

    Raises:
        UserError: the folder holds no metrics yet, or the page cannot be written.
    """
    folder = Path(folder)
    run = read_run(folder)
    first, other = curves_of(run)
    return write_page(
        folder / FILE,
        "run.html",
        run=run,
        method=METHODS.get(run.method, "Training run"),
        title=f"{run.method or 'run'} · {run.name}",
        status=str(run.record.get("status") or ""),
        lineage=line_of(run),
        facts=facts_of(run),
        figures=figures_of(run),
        notes=notes_of(run),
        findings=findings_of(run),
        curves=first,
        nothing_held_out=nothing_held_out(run),
        has_evaluation=any(curve.has_evaluation for curve in (*first, *other)),
        is_smoothed=any(line.pale for curve in (*first, *other) for line in curve.plot.drawn),
        other_curves=other,
        evaluations=evaluation_table(run),
        stories=stories_of(run),
        panels=panels_of(run),
        data=data_of(run),
        data_summary=str(run.recorded("data").get("summary") or ""),
        derived=pairs_of(run.record.get("settings")),
        settings=(settings := settings_of(run)),
        changed=[row for _, rows in settings for row in rows if row.is_changed],
        machine=machine_of(run),
        commands=commands_of(run),
    )


def nothing_held_out(run: RunFiles) -> str:
    """The line for a run whose figures are those of training; empty for one that was evaluated."""
    if run.evaluations:
        return ""
    if run.recorded("eval_data"):
        return "No evaluation was made yet: these are figures of training rows."
    return "Nothing was held out: these are figures of training rows."


def notes_of(run: RunFiles) -> list[tuple[str, int, str]]:
    """(kind, step, text), verdicts first: they are what to act on."""
    notes = [
        (str(note.get("kind", "note")), int(note["step"]) if is_number(note.get("step")) else 0, str(note["text"]))
        for note in run.notes
    ]
    return sorted(notes, key=lambda note: note[0] != "verdict")


def evaluation_table(run: RunFiles) -> tuple[list[int], list[tuple[str, list[str]]]]:
    """Steps, and each evaluated metric at them; of many evaluations some, the first and the last among them."""
    rows = run.evaluations
    if len(rows) > MOST_EVALUATIONS:
        places = sorted({round(i * (len(rows) - 1) / (MOST_EVALUATIONS - 1)) for i in range(MOST_EVALUATIONS)})
        rows = [rows[place] for place in places]
    names = dict.fromkeys(key for row in rows for key in row if key.startswith(EVAL))
    return [int(row["step"]) for row in rows], [(name, [shown(name, row.get(name)) for row in rows]) for name in names]


def pairs_of(found: Any) -> list[tuple[str, str]]:
    """[[name, value] …] as run.json has them."""
    if not isinstance(found, list):
        return []
    return [(str(pair[0]), str(pair[1])) for pair in found if isinstance(pair, list) and len(pair) == 2]


def data_of(run: RunFiles) -> list[tuple[str, str]]:
    """Which rows these were, provably: their hashes."""
    data, held_out = run.recorded("data"), run.recorded("eval_data")
    rows = [
        ("trained on", data.get("name")),
        ("rows", data.get("rows")),
        ("sha256", data.get("sha256")),
        ("evaluation rows", held_out.get("rows")),
        ("sha256 of these", held_out.get("sha256")),
    ]
    return [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in rows if value]


def machine_of(run: RunFiles) -> list[tuple[str, str]]:
    """Where and with what it ran: all that one needs to get the same numbers."""
    seed = run.record.get("seed", run.section("training").get("seed"))
    hardware = {name.replace("_", " "): value for name, value in run.recorded("hardware").items()}
    if isinstance(hardware.get("memory gib"), (int, float)):
        hardware["memory"] = f"{hardware.pop('memory gib'):.0f} GiB"
    rows: Row = {**hardware, "processes": run.record.get("processes"), "seed": seed, **run.recorded("versions")}
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "", {}, [])]


def commands_of(run: RunFiles) -> list[tuple[str, str]]:
    """(what for, the command): again, on, and what to do with the model."""
    folder, final = shlex.quote(run.name), shlex.quote(str(run.folder / "final"))
    config = shlex.quote(str(run.folder / "config.yaml"))
    again = shlex.quote(f"{run.name}-again")
    commands = []
    if run.config:
        commands.append(("Do it again", f"train-config {config} --output-dir {again}"))
    if run.record.get("status") in ("running", "interrupted", "failed"):
        commands.append(("Go on where it stopped", f"train-config {config} --resume"))
    if run.method == "reward":
        commands.append(("Measure it", f"evaluate reward --model {final} --dataset DATASET"))
        commands.append(("Train a policy on it", f"train-ppo --model MODEL --reward-model {final} --dataset DATASET"))
    else:
        start = shlex.quote(str(run.section("model").get("name") or "BASE"))
        commands.append(("Talk to it", f"chat {final}"))
        commands.append(("See what changed", f"evaluate compare --model {final} --against {start} --dataset DATASET"))
    commands.append(("Beside another run", f"report {folder} OTHER_RUN"))
    return [(what, f"python main.py {command}") for what, command in commands]
