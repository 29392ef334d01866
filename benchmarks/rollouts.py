"""GRPO side by side with TRL's GRPOTrainer; PPO, which TRL no longer has, beside the machine's own ceiling.

    python -m benchmarks.rollouts                      every configuration, one thread, 1-2 minutes each
    python -m benchmarks.rollouts --rounds 3 grpo ppo  two configurations, three rounds

Each side writes its own responses, so no two rollouts are the same and speeds are compared by useful token. That both
train the same thing is told by the first steps, in which both are given the same responses: loss and norm of the
gradient (of the second step after an update of the weights) must agree, else the exit code is 1.

PPO's three parts are measured by themselves: writing, scoring (reward model, reference, value network, advantages)
and training (policy and value network), each as a share of a matrix product's speed in the same interleaving. Results
go to benchmarks/results/rollouts-cpu.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from benchmarks.baton import Worker, alternate
from benchmarks.report import machine_description
from benchmarks.rollouts_report import (
    COMPARED_HEADINGS,
    SPLIT_HEADINGS,
    Rows,
    Run,
    agree,
    compared_row,
    split_row,
    write_record,
)
from benchmarks.side_by_side import TUNED_MALLOC, Configuration
from benchmarks.task import Task

GRPO = Task(method="grpo", rows_per_step=2, group_size=8, replayed_steps=2)
COMPARED = {
    "grpo": Configuration("GRPO, 2 prompts × 8; TRL out of the box", GRPO),
    "grpo-best": Configuration(
        "GRPO, 2 prompts × 8; TRL at its best", replace(GRPO, variant="best", micro_batch=4), tuned_malloc=True
    ),
}
PPO = Task(method="ppo", rows_per_step=8, minibatches=2, epochs_per_rollout=2)
# The same number of responses in each rollout and each step, and one network instead of four.
ALONE = Task(method="grpo", rows_per_step=4, group_size=2, minibatches=2, epochs_per_rollout=2)
SPLIT = {
    "ppo": ("PPO, four networks", PPO),
    "ppo-lora": ("PPO on LoRA, one shared backbone", replace(PPO, lora=True, learning_rate=2e-4)),
    "lora-alone": ("GRPO on LoRA, as many responses, one network", replace(ALONE, lora=True, learning_rate=2e-4)),
}


def measure(task: Task, rounds: int, steps: int, threads: int, malloc: dict[str, str] | None) -> Run:
    """`rounds` laps of `steps` rollouts, after one that replays given responses and warms up.

    `malloc`: TRL's environment; None leaves TRL out.
    """
    first = task.replayed_steps + 1
    # One rollout more than is asked for: the loop must still be waiting when the last lap is reported.
    task = replace(task, steps=first + rounds * steps + 1)
    with (
        Worker("matmul", "benchmarks.matmul", task.as_json(), threads) as ceiling,
        Worker("ours", "benchmarks.ours_rollouts", task.as_json(), threads) as ours,
    ):
        ceiling.wait_until_ready()
        facts = ours.wait_until_ready()
        workers = [ours, ceiling]
        if malloc is None:
            alternate(workers, 1, first)
            alternate(workers, rounds, steps)
            return Run(ours.laps, ceiling.laps, [], facts)
        with Worker("TRL", "benchmarks.peer_trl_rollouts", task.as_json(), threads, malloc) as peer:
            peer.wait_until_ready()
            workers.append(peer)
            alternate(workers, 1, first)
            alternate(workers, rounds, steps)
            return Run(ours.laps, ceiling.laps, peer.laps, facts)


def parse_arguments() -> argparse.Namespace:
    known = {*COMPARED, *SPLIT}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CONFIGURATION", help=f"of {', '.join(sorted(known))}; all")
    parser.add_argument("--threads", type=int, default=1, help="threads of each side (1: right on a busy machine)")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds, after one to warm up")
    parser.add_argument("--steps", type=int, default=2, help="rollouts of one lap")
    parser.add_argument("--remark", default="", help="a sentence for the record: how busy the machine was, say")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - known:
        parser.error(f"no such configuration: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    console = Console(width=200)
    names = arguments.names or [*COMPARED, *SPLIT]
    compared: Rows = []
    split: Rows = []
    void = False
    for name in names:
        title, task, malloc = name_to_work(name)
        console.print(f"[dim]{title} …[/]")
        run = measure(task, arguments.rounds, arguments.steps, arguments.threads, malloc)
        if name in COMPARED:
            compared.append(compared_row(title, run, arguments.steps))
            void |= not agree(run)
            show(console, COMPARED_HEADINGS, compared[-1])
        if name != "grpo-best":  # ours is the same as in "grpo"
            split.append(split_row(title.partition(";")[0], run))
            show(console, SPLIT_HEADINGS, split[-1])
    machine = machine_description(arguments.threads, "alpaca")
    console.print(machine, markup=False)
    if set(names) == {*COMPARED, *SPLIT} and arguments.threads == 1:
        # Part of the configurations must not overwrite the record of all of them.
        console.print(f"written: {write_record(compared, split, machine, GRPO, arguments.remark)}")
    if void:
        console.print("[red]loss or gradient differ on the same responses: not the same training[/]")
    return int(void)


def show(console: Console, headings: Sequence[str], row: Sequence[str]) -> None:
    """A row as lines: it is too wide for a terminal."""
    for heading, cell in zip(headings, row, strict=True):
        console.print(f"  {heading}: {cell}", markup=False, highlight=False)


def name_to_work(name: str) -> tuple[str, Task, dict[str, str] | None]:
    """Title, task, and TRL's environment: None where there is no TRL to compare with."""
    if name in SPLIT:
        return *SPLIT[name], None
    configuration = COMPARED[name]
    return configuration.title, configuration.task, TUNED_MALLOC if configuration.tuned_malloc else {}


if __name__ == "__main__":
    sys.exit(main())
