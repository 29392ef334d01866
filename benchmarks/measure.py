"""From a configuration to its figures: start the workers, hand the baton round, compare what they report.

Workers are ours, the peer's and the matrix products of `matmul.py`, in alternating turns: see `baton.py`. All three are
started at once, since loading libraries takes longer than many a lap.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from benchmarks import rollout_figures, startup
from benchmarks.baton import CEILING, Lap, Worker, alternate, gflops
from benchmarks.configurations import Configuration
from benchmarks.pairs import build_pairs
from benchmarks.pairs import work_of as work_of_pairs
from benchmarks.results import Result, Spread
from benchmarks.task import Task
from benchmarks.workload import SHAPES, Work, build_rows, work_of

# Losses of two correct programs differ by rounding only. In bfloat16 TRL differs from itself by 1.1e-4 within five
# steps when it cuts the same batch into 4 x 2 rows instead of 1 x 8.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-4}
# Gradient norms of rollouts are compared relative to their size; a bfloat16 number itself is only known to 4e-3.
ROLLOUT_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-3}
TRAINERS = {  # our worker, TRL's
    "sft": ("benchmarks.ours", "benchmarks.peer_trl"),
    "reward": ("benchmarks.ours_preferences", "benchmarks.peer_trl_preferences"),
    "dpo": ("benchmarks.ours_preferences", "benchmarks.peer_trl_preferences"),
    "grpo": ("benchmarks.ours_rollouts", "benchmarks.peer_trl_rollouts"),
    "ppo": ("benchmarks.ours_rollouts", ""),
}
BOTH_IN_ONE = {"generation": "benchmarks.generation", "rows": "benchmarks.tokenising"}


def measure(configuration: Configuration, rounds: int, threads: int) -> Result:
    """One line of the table.

    Raises:
        WorkerFailed: a worker ended early; the message holds what it said.
    """
    started, method = time.perf_counter(), configuration.task.method
    if method == "startup":
        result = startup.measure(configuration.name, rounds)
    elif method in BOTH_IN_ONE:
        result = both_in_one(configuration, rounds, threads)
    elif method in ("grpo", "ppo"):
        result = rollouts(configuration, rounds, threads)
    else:
        result = training(configuration, rounds, threads)
    return replace(result, seconds=time.perf_counter() - started)


def training(configuration: Configuration, rounds: int, threads: int) -> Result:
    """Both sides take the same optimiser steps on the rows that TRL's worker announces."""
    steps = configuration.steps
    task = replace(configuration.task, steps=1 + rounds * steps + 1)  # one to warm up, one to look into
    with ExitStack() as stack:
        start = starter(stack, configuration, task, threads)
        peer, ours, ceiling = (start(name) for name in ("peer", "ours", CEILING))
        plan = peer.wait_until_ready()["plan"][: task.steps]
        ceiling.wait_until_ready()
        ours.wait_until_ready()
        ours.send_plan(plan)
        workers = [ours, ceiling, peer]
        alternate(workers, 1, 1)  # the first steps allocate and, in bf16, compile kernels
        alternate(workers, rounds, steps)
        profiled = ours.profile(1)
    works = works_of(task, plan[1 : 1 + rounds * steps])
    laps_works = [
        Work(*map(sum, zip(*works[start_at : start_at + steps], strict=True)))
        for start_at in range(0, len(works), steps)
    ]
    return compare(configuration, ours.laps, peer.laps, ceiling.laps, laps_works, profiled)


def starter(stack: ExitStack, configuration: Configuration, task: Task, threads: int) -> Callable[[str], Worker]:
    """A function that starts the worker "ours", "peer" or "ceiling"; the stack ends it."""
    ours, peer = TRAINERS[task.method]
    modules = {"ours": ours, "peer": peer, CEILING: "benchmarks.matmul"}

    def start(name: str) -> Worker:
        environment = configuration.environment | (configuration.peer_environment if name == "peer" else {})
        return stack.enter_context(Worker(name, modules[name], task.as_json(), threads, environment))

    return start


def works_of(task: Task, steps: list[list[int]]) -> list[Work]:
    """What each step asks for, by the numbers of its rows."""
    if task.method == "sft":
        rows = build_rows(task.rows, task.max_length, task.completion_only)
        return [work_of([rows[i] for i in step], SHAPES[task.shape]) for step in steps]
    pairs = build_pairs(task.rows, task.max_length)
    return [work_of_pairs([pairs[i] for i in step], task) for step in steps]


def compare(
    configuration: Configuration,
    ours: Sequence[Lap],
    peer: Sequence[Lap],
    ceiling: Sequence[Lap],
    works: Sequence[Work],
    profiled: Lap,
) -> Result:
    """The figures of one line, from laps of the same work. The first lap warms up: of it only the losses count."""
    difference = largest_difference([lap.losses for lap in ours], [lap.losses for lap in peer])
    ours, peer, ceiling = ours[1:], peer[1:], ceiling[1:]
    useful = [work.useful_tokens for work in works]
    square, model = (gflops(ceiling, size) for size in ("square", "model"))

    def rate(laps: Sequence[Lap]) -> list[float]:  # GFLOP/s of what cannot be avoided
        return [work.flops / lap.seconds / 1e9 for work, lap in zip(works, laps, strict=True)]

    figures = {
        "speed": ratios([lap.seconds for lap in peer], [lap.seconds for lap in ours]),
        "wall speed": ratios([lap.wall_seconds for lap in peer], [lap.wall_seconds for lap in ours]),
        "ceiling GFLOP/s": Spread.of(rate(ours)),
        "ceiling": ratios(rate(ours), square),
        "peer ceiling": ratios(rate(peer), square),
        "reachable": ratios(rate(ours), model),
        "square GFLOP/s": Spread.of(square),
        "model GFLOP/s": Spread.of(model),
    }
    if "new sizes" in ceiling[0].parts:
        figures["new sizes GFLOP/s"] = Spread.of(gflops(ceiling, "new sizes"))
    for side, laps in (("", ours), ("peer ", peer)):
        figures[f"{side}tokens/s"] = ratios(useful, [lap.seconds for lap in laps])
        figures[f"{side}read"] = Spread.of([sum(lap.read_tokens for lap in laps) / sum(useful)])
    figures |= memory_figures(configuration.task, ours[-1].working_memory_mb, peer[-1].working_memory_mb)
    whole = sum(profiled.kinds.values())
    figures |= {kind: Spread.of([seconds / whole]) for kind, seconds in profiled.kinds.items()}
    return Result(
        configuration.name,
        figures,
        difference,
        TOLERANCE[configuration.task.precision],
        len(ours),
    )


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    return Spread.of([n / d for n, d in zip(numerators, denominators, strict=True)])


def memory_figures(task: Task, ours_mb: float, peer_mb: float) -> dict[str, Spread]:
    """Memory of both sides; and, where all weights are trained, what is left of it without AdamW's state."""
    figures = {"memory MB": ours_mb, "peer memory MB": peer_mb, "memory": ours_mb / peer_mb}
    if not task.lora and task.reference != "adapter_off":
        state_mb = 12 * SHAPES[task.shape].weights / 2**20  # gradients and two moments, float32
        figures["state MB"] = state_mb
        figures["memory beyond state"] = (ours_mb - state_mb) / max(peer_mb - state_mb, 1)
    return {name: Spread.of([value]) for name, value in figures.items()}


def largest_difference(ours: Sequence[Sequence[float]], peer: Sequence[Sequence[float]]) -> float:
    differences = [abs(x - y) for a, b in zip(ours, peer, strict=True) for x, y in zip(a, b, strict=True)]
    # A plain max may overlook a NaN; and where nothing was compared, nothing agrees.
    return max(differences, key=lambda difference: (math.isnan(difference), difference), default=math.nan)


def rollouts(configuration: Configuration, rounds: int, threads: int) -> Result:
    """Each side writes its own responses, so speeds are compared by useful token; PPO has no other side."""
    steps, replayed = configuration.steps, configuration.task.replayed_steps
    # One rollout more than is asked for: the loop must still be waiting when the last lap is reported.
    task = replace(configuration.task, steps=replayed + 1 + rounds * steps + 1)
    with ExitStack() as stack:
        start = starter(stack, configuration, task, threads)
        names = ["ours", CEILING, *(["peer"] if configuration.peer else [])]
        workers = {name: start(name) for name in reversed(names)}
        facts = {name: worker.wait_until_ready() for name, worker in workers.items()}
        in_turn = [workers[name] for name in names]
        alternate(in_turn, 1, replayed + 1)
        alternate(in_turn, rounds, steps)
    laps = {name: worker.laps[1:] for name, worker in workers.items()}
    figures = rollout_figures.shares(laps["ours"], laps[CEILING], facts["ours"])
    if not configuration.peer:
        return Result(configuration.name, figures, rounds=rounds)
    figures |= rollout_figures.beside(laps["ours"], laps["peer"], laps[CEILING])
    figures |= memory_figures(task, laps["ours"][-1].working_memory_mb, laps["peer"][-1].working_memory_mb)
    difference = rollout_figures.difference(workers["ours"].laps[0].losses, workers["peer"].laps[0].losses, replayed)
    return Result(configuration.name, figures, difference, ROLLOUT_TOLERANCE[task.precision], rounds)


def both_in_one(configuration: Configuration, rounds: int, threads: int) -> Result:
    """One worker runs both sides in turn: neither trains, so neither disturbs the other's memory."""
    task = configuration.task
    module = BOTH_IN_ONE[task.method]
    with Worker(configuration.name, module, task.as_json(), threads, configuration.environment) as worker:
        facts = worker.wait_until_ready()
        worker.go(1)
        laps = [worker.go(1) for _ in range(rounds)]
    rates = {side: [lap.part_tokens[side] / lap.parts[side] for lap in laps] for side in ("ours", "peer")}
    figures = {
        "speed": ratios(rates["ours"], rates["peer"]),
        "tokens/s": Spread.of(rates["ours"]),
        "peer tokens/s": Spread.of(rates["peer"]),
    }
    if task.method == "generation":
        figures["rows"] = Spread.of([task.rows_written])
    else:  # rows
        figures["encoding"] = Spread.of([lap.parts["encoding"] / lap.parts["ours"] for lap in laps])
    different = facts.get("different", max((max(lap.losses, default=0.0) for lap in laps), default=0.0))
    return Result(configuration.name, figures, float(different), 0.0, rounds)
