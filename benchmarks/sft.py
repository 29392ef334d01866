"""SFT side by side with TRL's SFTTrainer: speed, memory and share of the machine, at equal losses.

    make benchmark                                   every configuration, one thread, about a minute each
    python -m benchmarks.sft --threads 2 default     one configuration, two threads

Both sides train the same model on the same rows in the same optimiser steps, with the same trained tokens,
learning rate, AdamW and clipping, and log the same kind of metrics at every step. Where a loss differs by more than
the tolerance, the comparison is void and the exit code is 1. Results go to benchmarks/results/sft-cpu.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from benchmarks.baton import Lap, Spread, Worker, alternate
from benchmarks.report import HEADINGS, TOLERANCE, Result, machine_description, write_markdown
from benchmarks.task import Task
from benchmarks.workload import Row, build_rows, model_flops

# glibc gives large blocks back to the system at each free, and pays for them page by page at the next malloc.
TUNED_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}


@dataclass(frozen=True)
class Configuration:
    title: str
    task: Task
    tuned_malloc: bool = False


CONFIGURATIONS = {
    "default": Configuration("TRL out of the box, fp32", Task()),
    "default-bf16": Configuration("TRL out of the box, bf16", Task(precision="bf16")),
    "best": Configuration("TRL at its best, fp32", Task(variant="best", micro_batch=2), tuned_malloc=True),
    "best-bf16": Configuration(
        "TRL at its best, bf16", Task(variant="best", micro_batch=4, precision="bf16"), tuned_malloc=True
    ),
    "completion": Configuration("completion only, TRL out of the box, fp32", Task(completion_only=True)),
    "packing": Configuration("TRL packing, fp32", Task(variant="packing", rows_per_step=2)),
}


def measure(name: str, rounds: int, steps: int, threads: int) -> Result:
    """One configuration: three workers in turn, `rounds` laps of `steps` optimiser steps, after one lap to warm up."""
    configuration = CONFIGURATIONS[name]
    task = replace(configuration.task, steps=(rounds + 1) * steps)
    malloc = TUNED_MALLOC if configuration.tuned_malloc else {}
    with (
        Worker("TRL", "benchmarks.peer_trl", task.as_json(), threads, malloc) as peer,
        Worker("matmul", "benchmarks.matmul", task.as_json(), threads) as ceiling,
    ):
        # Ours starts later: TRL's worker says which rows it will put into which step.
        plan = peer.wait_until_ready()["plan"][: task.steps]
        with Worker("ours", "benchmarks.ours", replace(task, plan=plan).as_json(), threads) as ours:
            ours.wait_until_ready()
            ceiling.wait_until_ready()
            workers = [ours, ceiling, peer]
            alternate(workers, rounds + 1, steps)
            for worker in workers:
                del worker.laps[0]  # the first steps allocate and, in bf16, compile kernels
    rows = build_rows(task.rows, task.max_length, task.completion_only)
    steps_rows = [[rows[i] for i in step] for step in plan[steps:]]
    return compare(configuration, ours.laps, peer.laps, ceiling.laps, steps_rows)


def compare(
    configuration: Configuration, ours: list[Lap], peer: list[Lap], ceiling: list[Lap], steps: list[list[Row]]
) -> Result:
    """The numbers of one line of the table; CPU seconds throughout, as they do not count waiting for a busy core."""
    per_lap = len(steps) // len(ours)
    laps_rows = [[row for step in steps[i : i + per_lap] for row in step] for i in range(0, len(steps), per_lap)]
    useful = [sum(len(row["input_ids"]) for row in rows) for rows in laps_rows]
    peak = [lap.flops / lap.cpu_seconds for lap in ceiling]
    needed = [model_flops(rows) for rows in laps_rows]

    def share(laps: list[Lap]) -> Spread:
        return Spread.of([n / lap.cpu_seconds / p for n, lap, p in zip(needed, laps, peak, strict=True)])

    def padding(laps: list[Lap]) -> float:
        return 1 - sum(useful) / sum(lap.computed_tokens for lap in laps)

    return Result(
        title=configuration.title,
        speed=Spread.of([b.cpu_seconds / a.cpu_seconds for a, b in zip(ours, peer, strict=True)]),
        wall_speed=Spread.of([b.wall_seconds / a.wall_seconds for a, b in zip(ours, peer, strict=True)]),
        tokens_per_second=Spread.of([n / lap.cpu_seconds for n, lap in zip(useful, ours, strict=True)]),
        peer_tokens_per_second=Spread.of([n / lap.cpu_seconds for n, lap in zip(useful, peer, strict=True)]),
        memory_mb=ours[-1].working_memory_mb,
        peer_memory_mb=peer[-1].working_memory_mb,
        padding=padding(ours),
        peer_padding=padding(peer),
        ceiling_share=share(ours),
        peer_ceiling_share=share(peer),
        ceiling_gflops=Spread.of([p / 1e9 for p in peak]),
        loss_difference=max(
            abs(x - y) for a, b in zip(ours, peer, strict=True) for x, y in zip(a.losses, b.losses, strict=True)
        ),
        tolerance=TOLERANCE[configuration.task.precision],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CONFIGURATION", help=f"of {', '.join(CONFIGURATIONS)}; all")
    parser.add_argument("--threads", type=int, default=1, help="threads of each side (1: right on a busy machine)")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds, after one to warm up")
    parser.add_argument("--steps", type=int, default=2, help="optimiser steps of one lap")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(CONFIGURATIONS)
    if unknown:
        parser.error(f"no such configuration: {', '.join(sorted(unknown))}; there are {', '.join(CONFIGURATIONS)}")

    console, results = Console(width=200), []
    for name in arguments.names or CONFIGURATIONS:
        console.print(f"[dim]{CONFIGURATIONS[name].title} …[/]")
        results.append(measure(name, arguments.rounds, arguments.steps, arguments.threads))
    table = Table(*HEADINGS, title="SFT, ours against TRL")
    for result in results:
        table.add_row(*result.cells())
    machine = machine_description(arguments.threads)
    console.print(table)
    console.print(machine)
    if set(arguments.names or CONFIGURATIONS) == set(CONFIGURATIONS):
        # Part of the configurations must not overwrite the record of all of them.
        console.print(f"written: {write_markdown(results, machine, arguments.threads)}")
    void = [result for result in results if not result.losses_agree]
    for result in void:
        console.print(f"[red]{result.title}: losses differ by {result.loss_difference:.1e}: not the same training[/]")
    return 1 if void else 0


if __name__ == "__main__":
    sys.exit(main())
