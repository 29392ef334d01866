"""Start-up: how long `python main.py --help` and every verb's `--help` take, as a user meets them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

from benchmarks.baton import REPOSITORY
from benchmarks.results import Result, Spread


def commands() -> list[list[str]]:
    """The help itself, and that of each verb."""
    from commands import VERBS

    return [[], *([verb] for verb in VERBS)]


def time_help(command: list[str]) -> tuple[float, float]:
    """CPU seconds (user and system) and wall seconds of one `--help`."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "main.py", *command, "--help"],
        cwd=REPOSITORY,
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def measure(name: str, rounds: int) -> Result:
    """Medians of each command; the figures are those of the slowest."""
    details = {}
    for command in commands():
        times = [time_help(command) for _ in range(rounds)]
        cpu, wall = (Spread.of(seconds) for seconds in zip(*times, strict=True))
        details[" ".join(["main.py", *command, "--help"])] = [cpu.median, wall.median]
    slowest = max(cpu for cpu, _ in details.values())
    slowest_wall = max(wall for _, wall in details.values())
    figures = {"start-up CPU s": Spread.of([slowest]), "start-up wall s": Spread.of([slowest_wall])}
    return Result(name, figures, rounds=rounds, details=details)
