"""One benchmark, from its configurations to the table: three workers in turn for each, compared at equal losses.

The workers are ours, TRL's and a matrix product (`matmul.py`), see `baton.py`. What differs between the methods is in
`Benchmark`; `sft.py` and `preferences.py` fill it in.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from benchmarks.baton import Lap, Spread, Worker, alternate
from benchmarks.report import HEADINGS, TOLERANCE, Result, machine_description, write_markdown
from benchmarks.task import Task
from benchmarks.workload import Work

# glibc gives large blocks back to the system at each free, and pays for them page by page at the next malloc.
TUNED_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}


@dataclass(frozen=True)
class Configuration:
    title: str
    task: Task
    tuned_malloc: bool = False  # TRL's side


@dataclass(frozen=True)
class Benchmark:
    title: str  # "SFT": heads the table
    record: str  # name of the table's file in benchmarks/results/
    ours: str  # the workers' modules
    peer: str
    rows: str  # whose lengths the rows have
    configurations: dict[str, Configuration]
    works: Callable[[Task, list[list[int]]], list[Work]]  # what each of some steps asks for, by its rows' numbers
    remarks: str  # the end of the record: what "best" means, and what is special
    steps_per_lap: int = 2

    def run(self, description: str) -> int:
        """The command line. Returns the exit code: 1 where a comparison is void."""
        arguments = self.parse_arguments(description)
        console, results = Console(width=200), []
        for name in arguments.names or self.configurations:
            console.print(f"[dim]{self.configurations[name].title} …[/]")
            results.append(self.measure(name, arguments.rounds, arguments.steps, arguments.threads))
        table = Table(*HEADINGS, title=f"{self.title}, ours against TRL")
        for result in results:
            table.add_row(*result.cells())
        machine = machine_description(arguments.threads, self.rows)
        console.print(table)
        console.print(machine)
        if set(arguments.names or self.configurations) == set(self.configurations):
            # Part of the configurations must not overwrite the record of all of them.
            # A run with several threads does not overwrite that with one either.
            name = self.record if arguments.threads == 1 else f"{self.record}-{arguments.threads}-threads"
            console.print(f"written: {write_markdown(name, self.title, results, machine, self.remarks)}")
        void = [result for result in results if not result.losses_agree]
        for result in void:
            console.print(
                f"[red]{result.title}: losses differ by {result.loss_difference:.1e}: not the same training[/]"
            )
        return 1 if void else 0

    def parse_arguments(self, description: str) -> argparse.Namespace:
        names = ", ".join(self.configurations)
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("names", nargs="*", metavar="CONFIGURATION", help=f"of {names}; all")
        parser.add_argument("--threads", type=int, default=1, help="threads of each side (1: right on a busy machine)")
        parser.add_argument("--rounds", type=int, default=5, help="paired rounds, after one to warm up")
        parser.add_argument("--steps", type=int, default=self.steps_per_lap, help="optimiser steps of one lap")
        arguments = parser.parse_args()
        unknown = set(arguments.names) - set(self.configurations)
        if unknown:
            parser.error(f"no such configuration: {', '.join(sorted(unknown))}; there are {names}")
        return arguments

    def measure(self, name: str, rounds: int, steps: int, threads: int) -> Result:
        """One configuration: three workers in turn, `rounds` laps of `steps` optimiser steps, after one to warm up."""
        configuration = self.configurations[name]
        task = replace(configuration.task, steps=(rounds + 1) * steps)
        malloc = TUNED_MALLOC if configuration.tuned_malloc else {}
        with (
            Worker("TRL", self.peer, task.as_json(), threads, malloc) as peer,
            Worker("matmul", "benchmarks.matmul", task.as_json(), threads) as ceiling,
        ):
            # Ours starts later: TRL's worker says which rows it will put into which step.
            plan = peer.wait_until_ready()["plan"][: task.steps]
            with Worker("ours", self.ours, replace(task, plan=plan).as_json(), threads) as ours:
                ours.wait_until_ready()
                ceiling.wait_until_ready()
                workers = [ours, ceiling, peer]
                alternate(workers, rounds + 1, steps)
                for worker in workers:
                    del worker.laps[0]  # the first steps allocate and, in bf16, compile kernels
        works = self.works(task, plan[steps:])
        laps_works = [
            Work(*map(sum, zip(*works[start : start + steps], strict=True))) for start in range(0, len(works), steps)
        ]
        return compare(configuration, ours.laps, peer.laps, ceiling.laps, laps_works)


def compare(
    configuration: Configuration, ours: list[Lap], peer: list[Lap], ceiling: list[Lap], works: list[Work]
) -> Result:
    """The numbers of one line of the table; CPU seconds throughout, as they do not count waiting for a busy core."""
    useful = [work.useful_tokens for work in works]
    peak = [lap.flops / lap.cpu_seconds for lap in ceiling]

    def share(laps: list[Lap]) -> Spread:
        return Spread.of([work.flops / lap.cpu_seconds / p for work, lap, p in zip(works, laps, peak, strict=True)])

    def read(laps: list[Lap]) -> float:
        return sum(lap.read_tokens for lap in laps) / sum(useful)

    return Result(
        title=configuration.title,
        speed=Spread.of([b.cpu_seconds / a.cpu_seconds for a, b in zip(ours, peer, strict=True)]),
        wall_speed=Spread.of([b.wall_seconds / a.wall_seconds for a, b in zip(ours, peer, strict=True)]),
        tokens_per_second=Spread.of([n / lap.cpu_seconds for n, lap in zip(useful, ours, strict=True)]),
        peer_tokens_per_second=Spread.of([n / lap.cpu_seconds for n, lap in zip(useful, peer, strict=True)]),
        memory_mb=ours[-1].working_memory_mb,
        peer_memory_mb=peer[-1].working_memory_mb,
        read=read(ours),
        peer_read=read(peer),
        ceiling_share=share(ours),
        peer_ceiling_share=share(peer),
        ceiling_gflops=Spread.of([p / 1e9 for p in peak]),
        loss_difference=max(
            (abs(x - y) for a, b in zip(ours, peer, strict=True) for x, y in zip(a.losses, b.losses, strict=True)),
            key=lambda difference: (math.isnan(difference), difference),  # a plain max may overlook a NaN
        ),
        tolerance=TOLERANCE[configuration.task.precision],
    )
