"""The demo's results as a file, from which its page is made: `results.json` beside the folders of the stages.

The page can be made anew from it at any time (`python main.py report FOLDER`), without a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.demo_results import Result
from commands.demo_tables import found, percents, some_of_each_kind
from commands.json_file import write_json

if TYPE_CHECKING:
    from auto_bot_tuner.evaluation.win_rates import WinRate

RESULTS = "results.json"


def write_demo_report(
    folder: Path, results: Sequence[Result], words: Mapping[str, Mapping[str, str]], rows: list[Any], quick: bool
) -> Path:
    """Write the results and their page into the demo's folder. `words`: stage → what it does, where to look, …"""
    from auto_bot_tuner.reports import write_story

    stages = [
        {**result.as_json(), **words[result.name], **details(result), "found": found(result, results[:i])}
        for i, result in enumerate(results)
    ]
    story = {"quick": quick, "stages": stages, "samples": samples(results, rows)}
    write_json(str(folder / RESULTS), story)
    return write_story(folder)


def details(result: Result) -> dict[str, Any]:
    """What a page shows beyond the figures of --json: intervals and counts."""
    more: dict[str, Any] = {"report": f"{result.name}/report.html"}
    if result.report is not None:
        more["interval"] = result.report.overall.interval
    if result.pairs:
        more["pair_table"] = [
            {"kind": kind.replace("_", " "), "n": share.n, "value": share.value, **named(*percents(share))}
            for kind, share in result.pairs.items()
        ]
    if result.puzzles:
        more["puzzle_table"] = [{"how": how, **named(*percents(share))} for how, share in result.puzzles.items()]
    if result.wins:
        more["win_table"] = [win(how, won) for how, won in result.wins.items()]
    return more


def named(right: str, interval: str) -> dict[str, str]:
    return {"right": right, "interval": interval}


def win(how: str, won: WinRate) -> dict[str, str]:
    low, high = won.interval
    return {
        "how": how,
        "rate": f"{won.rate:.1%}",
        "interval": f"{low:.0%}–{high:.0%}",
        "note": "not told apart from chance" if low <= 0.5 <= high else "",
        "counts": f"{won.wins}, {won.ties}, {won.losses}",
    }


def samples(results: Sequence[Result], rows: list[Any]) -> list[dict[str, Any]]:
    """A few questions of different kinds, with the answer of each stage."""
    answering = [(result.name, result.report) for result in results if result.report is not None]
    return [
        {
            "prompt": answering[0][1].prompts[i],
            "answers": [
                {
                    "stage": name,
                    "text": report.responses[i].text,
                    "ended": report.responses[i].ended,
                    "correct": report.correct[i],
                }
                for name, report in answering
            ],
        }
        for i in some_of_each_kind(rows)
        if answering
    ]
