"""Every method beside TRL: speed, memory, equal losses, share of the machine's ceiling; one table, one picture.

    python -m benchmarks                    everything, on the CPU and on a GPU where there is one
    python -m benchmarks sft grpo-best      a part: methods or single lines
    python -m benchmarks --resume           what an interrupted run, or parts, left to measure
    python -m benchmarks --redraw           table and picture once more, from the figures of the last whole run

A line is void, and the exit code 1, where both sides' losses differ by more than rounding. Figures are kept as they
come (benchmarks/results/*-unfinished.json); table and picture are written when every line has been measured on the
same machine with the same code: a part never overwrites the record of all.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.baton import REPOSITORY, WorkerFailed
from benchmarks.configurations import Configuration, configurations
from benchmarks.measure import measure
from benchmarks.picture import draw
from benchmarks.report import HEADINGS, cells, markdown, missed
from benchmarks.results import Record, Result

RESULTS = REPOSITORY / "benchmarks" / "results"
IMAGES = REPOSITORY / "docs" / "images"
console = Console(highlight=False, soft_wrap=True)


class Book:
    """The files of one device's record: the unfinished one, which grows, and the whole one with table and picture."""

    def __init__(self, device: str, threads: int) -> None:
        # A run with several threads does not overwrite that with one.
        self.name = device if threads == 1 else f"{device}-{threads}-threads"
        self.known = configurations(device)
        self.unfinished = RESULTS / f"{self.name}-unfinished.json"
        self.whole = RESULTS / f"{self.name}.json"

    def is_whole(self, record: Record) -> bool:
        return set(record.results) == set(self.known)

    def keep(self, record: Record) -> None:
        record.save(self.unfinished)

    def publish(self, record: Record, remark: str = "") -> list[Path]:
        """Write record, table and picture; only of a record with every line."""
        assert self.is_whole(record), set(self.known) - set(record.results)
        record.save(self.whole)
        self.unfinished.unlink(missing_ok=True)
        return self.draw(record, remark)

    def draw(self, record: Record, remark: str = "") -> list[Path]:
        page = self.whole.with_suffix(".md")
        picture = IMAGES / ("benchmark.png" if self.name == "cpu" else f"benchmark-{self.name}.png")
        page.write_text(markdown(record, self.known, "make benchmark", remark), encoding="utf-8")
        draw(record, self.known, picture)
        return [self.whole, page, picture]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    devices = [arguments.device] if arguments.device else ["cpu", *(["cuda"] if machine.has_gpu() else [])]
    if arguments.device == "cuda" and not machine.has_gpu():
        say("error: PyTorch sees no GPU here")
        return 1
    return max(run_device(device, arguments) for device in devices)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    known = configurations("cpu") | configurations("cuda")
    methods = list(dict.fromkeys(configuration.method for configuration in known.values()))
    parser = argparse.ArgumentParser("python -m benchmarks", None, __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="PART", help=f"of {', '.join(methods)}; or of {', '.join(known)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="one of them only")
    parser.add_argument("--threads", type=int, default=1, help="threads of each side (1: right on a busy machine)")
    parser.add_argument("--rounds", type=int, help="paired rounds, after one to warm up (default: 3 or 5, by line)")
    parser.add_argument("--resume", action="store_true", help="go on with the unfinished record")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    parser.add_argument("--remark", default="", help="a sentence for the page: how busy the machine was, say")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.names) - set(known) - set(methods):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join([*methods, *known])}")
    return arguments


def run_device(device: str, arguments: argparse.Namespace) -> int:
    """Measure what is asked for on one device; the exit code."""
    book = Book(device, arguments.threads)
    if arguments.redraw:
        if (stored := Record.load(book.whole)) is None:
            say(f"{os.path.relpath(book.whole, REPOSITORY)} is not there or not readable: measure first")
            return 1
        say_written(book.draw(stored, arguments.remark))
        return 0
    record = Record(machine.setting(device, arguments.threads), datetime.date.today().isoformat())
    names = chosen(book.known, arguments.names)
    if arguments.resume or arguments.names:
        record.take_over(Record.load(book.unfinished))
    if arguments.resume:
        names = [name for name in names if name not in record.results]
    failed = measure_all(names, book, record, arguments)
    void = [result for result in record.results.values() if not result.agrees]
    for result in void:
        say(f"[red]{book.known[result.name].title}: both sides differ by {result.difference:.1e}: not the same work[/]")
    for miss in missed(record, book.known):
        say(f"[yellow]{miss.title}: {miss.target.figure} {miss.value:.2f}, target {miss.target}[/]. {miss.reason}")
    if book.is_whole(record):
        say_written(book.publish(record, arguments.remark))
    else:
        left = [name for name in book.known if name not in record.results]
        kept = os.path.relpath(book.unfinished, REPOSITORY)
        say(f"kept in {kept}; for table and picture, go on with --resume: {', '.join(left)}")
    return int(bool(void or failed))


def chosen(known: Mapping[str, Configuration], asked: Sequence[str]) -> list[str]:
    """The lines that a command asks for by their names or methods; all where it asks for none."""
    return [name for name, line in known.items() if not asked or name in asked or line.method in asked]


def measure_all(names: Sequence[str], book: Book, record: Record, arguments: argparse.Namespace) -> list[str]:
    """Measure line by line, keeping each; the names of those that failed."""
    failed, last = [], Record.load(book.whole)
    expected = {name: expected_seconds(book.known[name], last) for name in names}
    for number, name in enumerate(names):
        configuration = book.known[name]
        minutes = sum(expected[later] for later in names[number:]) / 60
        say(f"[bold]\\[{number + 1}/{len(names)}] {configuration.title}[/] … about {minutes:.0f} min left")
        try:
            result = measure(configuration, arguments.rounds or configuration.rounds, arguments.threads)
        except WorkerFailed as error:
            say(f"[red]failed[/]: {error}")
            failed.append(name)
            continue
        record.results[name] = result
        book.keep(record)
        show(result, configuration)
    return failed


def expected_seconds(configuration: Configuration, last: Record | None) -> float:
    if last is not None and configuration.name in last.results:
        return last.results[configuration.name].seconds
    return configuration.expected_seconds


def show(result: Result, configuration: Configuration) -> None:
    """A line of the table as lines: it is too wide for a terminal."""
    for heading, cell in zip(HEADINGS[1:], cells(result, configuration)[1:], strict=True):
        if cell != "–":
            console.print(f"  {heading}: {cell.replace('<br>', '; ').replace('**', '')}", markup=False)
    say(f"  [dim]{result.seconds:.0f} s[/]")


def say(text: str) -> None:
    console.print(text)
    sys.stdout.flush()


def say_written(paths: Sequence[Path]) -> None:
    say(f"written: {', '.join(os.path.relpath(path, REPOSITORY) for path in paths)}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted; what was measured is kept: python -m benchmarks --resume goes on")
        sys.exit(130)
