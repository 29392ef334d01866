"""`report`: one page about a run, or several runs side by side. Reads files alone: no model is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.terminal import neutral
from commands.json_file import check_writable

FILE = "report.html"


@dataclass(config=STRICT, kw_only=True)
class Arguments:
    """One self-contained page about a run (RUN/report.html), or a page that compares several runs."""

    # Folders of runs: each an output_dir, or the final/ in one. The folder of a demo gives the demo's page.
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    # File of the comparison. Empty: report.html in the folder that the runs share; one run has its page in its own.
    output: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    # Show the page in the browser of this machine.
    open: bool = False


def run(arguments: Arguments) -> None:
    """Write the page and say where it is.

    Raises:
        UsageError: no runs are named, one is none, or the file cannot be written.
        UserError: a run has no metrics yet.
    """
    page = write(arguments)
    print(neutral(f"The report is in {page}: open it in a browser"))
    if arguments.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def write(arguments: Arguments) -> Path:
    from auto_bot_tuner.reports import write_comparison, write_run_report, write_story
    from auto_bot_tuner.reports.run_files import find_run
    from auto_bot_tuner.reports.story import is_story

    if not arguments.runs:
        raise UsageError("name the folder of a run: python main.py report checkpoints/sft/tiny")
    if len(arguments.runs) == 1 and is_story(Path(arguments.runs[0])):
        refuse_output(arguments)
        return write_story(Path(arguments.runs[0]))
    folders = list(dict.fromkeys(find_run(name) for name in arguments.runs))
    if len(folders) == 1:
        refuse_output(arguments)
        return write_run_report(folders[0])
    check_writable(arguments.output, "--output")
    return write_comparison(folders, Path(arguments.output) if arguments.output else common_page(folders))


def refuse_output(arguments: Arguments) -> None:
    if arguments.output:
        raise UsageError(f"--output is for comparisons: the page of one run is {FILE} in its folder")


def common_page(folders: list[Path]) -> Path:
    """report.html in the folder that all of these are in; comparison.html where that folder has a page of its own.

    Raises:
        UsageError: they share none but the root of the file system.
    """
    parent = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    if parent == Path(parent.anchor):
        raise UsageError("these runs share no folder to put the comparison in: say where with --output FILE")
    is_taken = any((parent / file).is_file() for file in ("metrics.jsonl", "results.json"))  # by a run, by a demo
    here = Path.cwd()
    shown = parent.relative_to(here) if parent.is_relative_to(here) else parent
    return shown / ("comparison.html" if is_taken else FILE)
