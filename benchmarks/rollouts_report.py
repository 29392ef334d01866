"""The tables of the rollout benchmark: GRPO beside TRL, and where our own time and memory go."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.baton import REPOSITORY, Lap, Spread
from benchmarks.task import Task

TOLERANCE = 1e-4  # of losses, and of gradient norms relative to their size
PARTS = ("writing", "scoring", "training")

Rows = list[tuple[str, ...]]
COMPARED_HEADINGS = (
    "configuration",
    "speed ÷ TRL (CPU time)",
    "(wall time)",
    "useful tokens/s, ours | TRL",
    "writing: useful tokens/s, ours | TRL",
    "the rest: useful tokens/s, ours | TRL",
    "memory MB, ours | TRL",
    "memory ÷ TRL",
    "tokens trained on ÷ useful, ours | TRL",
    "useful tokens of a step, ours | TRL",
    "largest difference of loss, of gradient norm",
)
SPLIT_HEADINGS = (
    "configuration",
    "useful tokens/s",
    "share of CPU time: writing, scoring, training",
    "share of matmul ceiling: writing, scoring, training",
    "memory MB: models, peak with them",
)


@dataclass(frozen=True)
class Run:
    """Laps of one configuration's workers; those of TRL are missing for PPO. The first lap of each is the replay."""

    ours: list[Lap]
    ceiling: list[Lap]
    peer: list[Lap]
    facts: dict[str, float]  # what our worker said when it was ready


# ---- GRPO beside TRL ----


def differences(run: Run) -> tuple[float, float]:
    """The largest difference of the replayed steps: of losses, and of gradient norms relative to TRL's."""
    pairs = list(zip(run.ours[0].losses, run.peer[0].losses, strict=True))[
        :-2
    ]  # loss, norm, loss, norm, written, written
    return (
        max(abs(a - b) for a, b in pairs[::2]),
        max(abs(a - b) / b for a, b in pairs[1::2]),
    )


def rate(laps: Sequence[Lap], seconds: Sequence[float]) -> float:
    """Useful tokens per second, the median lap's."""
    return statistics.median(lap.useful_tokens / taken for lap, taken in zip(laps, seconds, strict=True))


def compared_row(title: str, run: Run, steps: int) -> tuple[str, ...]:
    ours, peer = run.ours[1:], run.peer[1:]
    pairs = list(zip(ours, peer, strict=True))

    def both(value: object, other: object) -> str:
        return f"{value} | {other}"

    def rates(of: str) -> str:
        found = []
        for laps in (ours, peer):
            writing = [lap.parts["writing"] for lap in laps]
            whole = [lap.cpu_seconds for lap in laps]
            rest = [a - b for a, b in zip(whole, writing, strict=True)]
            found.append(f"{rate(laps, {'whole': whole, 'writing': writing, 'rest': rest}[of]):.0f}")
        return both(*found)

    speed = Spread.of([a.useful_tokens / a.cpu_seconds / (b.useful_tokens / b.cpu_seconds) for a, b in pairs])
    wall = Spread.of([a.useful_tokens / a.wall_seconds / (b.useful_tokens / b.wall_seconds) for a, b in pairs])
    memory = [laps[-1].working_memory_mb for laps in (ours, peer)]
    useful = [sum(lap.useful_tokens for lap in laps) for laps in (ours, peer)]
    read = [sum(lap.read_tokens for lap in laps) / n for laps, n in zip((ours, peer), useful, strict=True)]
    of_loss, of_norm = differences(run)
    return (
        title,
        str(speed),
        str(wall),
        rates("whole"),
        rates("writing"),
        rates("rest"),
        both(*(f"{m:.0f}" for m in memory)),
        f"{memory[0] / memory[1]:.2f}",
        both(*(f"{r:.2f}" for r in read)),
        both(*(f"{n / len(ours) / steps:.0f}" for n in useful)),
        f"{of_loss:.1e}, {of_norm:.1e}{'' if agree(run) else ' FAIL'}",
    )


def agree(run: Run) -> bool:
    # Written so that a NaN disagrees.
    return all(difference <= TOLERANCE for difference in differences(run))


# ---- PPO by itself ----


def seconds_of(lap: Lap) -> dict[str, float]:
    """CPU seconds of a lap's parts: the rollout is writing and scoring, the rest is training."""
    return {
        "writing": lap.parts["writing"],
        "scoring": lap.parts["rollout"] - lap.parts["writing"],
        "training": lap.cpu_seconds - lap.parts["rollout"],
    }


def split_row(title: str, run: Run) -> tuple[str, ...]:
    ours, ceiling = run.ours[1:], run.ceiling[1:]
    peaks = [lap.flops / lap.cpu_seconds for lap in ceiling]
    taken = [seconds_of(lap) for lap in ours]
    of_time, of_ceiling = [], []
    for part in PARTS:
        of_time.append(statistics.median(t[part] / lap.cpu_seconds for t, lap in zip(taken, ours, strict=True)))
        shares = [lap.part_flops[part] / t[part] / peak for lap, t, peak in zip(ours, taken, peaks, strict=True)]
        of_ceiling.append(statistics.median(shares))
    peak = statistics.median(peaks) / 1e9
    facts = run.facts
    return (
        title,
        f"{rate(ours, [lap.cpu_seconds for lap in ours]):.0f}",
        ", ".join(f"{share:.0%}" for share in of_time),
        ", ".join(f"{share:.0%}" if share else "–" for share in of_ceiling) + f" of {peak:.0f} GFLOP/s",
        f"{facts['models_mb']:.0f}, {facts['loaded_mb'] + ours[-1].working_memory_mb:.0f}",
    )


# ---- the record ----


def markdown(rows: Rows) -> str:
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(cell.replace(" | ", " · ") for cell in line) + " |" for line in lines)


def write_record(compared: Rows, split: Rows, machine: str, task: Task, remark: str) -> Path:
    """Both tables for the repository; `task`: what was compared."""
    text = f"""# Rollouts on a CPU: GRPO against TRL, and PPO

Made by `python -m benchmarks.rollouts`. {machine}.{remark and " " + remark}

## GRPO

{markdown([COMPARED_HEADINGS, *compared])}

Each side writes its own responses (temperature 1, up to {task.max_new_tokens} tokens, a stop token every 82 on
average), scores them by the same function of their ids and takes one step on them; float32, DAPO's loss, no KL term,
logs at every step. Speed: useful tokens per second, ours ÷ TRL's; median of paired rounds, with the smallest and
largest. *Useful* tokens are those of prompts and responses, a prompt counted in each of its sequences, padding left
out. Memory is the highest resident memory above the loaded, idle process. Before the rounds both sides take
{task.replayed_steps} steps on the *same* given responses: the last column is what differs then, and more than
{TOLERANCE:.0e} voids a line.

"Out of the box": all 16 responses in one forward pass; gradient checkpointing is off, which is kinder to TRL than its
default. "At its best": micro-batches of 4 accumulated and malloc told to keep its memory.

## Where our time and memory go

{markdown([SPLIT_HEADINGS, *split])}

TRL has no PPO any more, so there is no second side: the ceiling is the speed of one 1024 × 1024 matrix product in the
same interleaving, and a share counts the arithmetic that the responses need (prompts once, no padding, nothing
computed twice, logits at response tokens only; frozen weights need no gradient). Writing multiplies a few rows by each
matrix, which no machine does at the speed of large products. Scoring is reward model, reference and value network.

PPO: 16 prompts, 2 passes of 2 steps; policy, value network, reference and reward model are Llamas of the same size.
Models: bytes of their weights, what several share counted once. Peak: highest resident memory above the process with
its libraries and no model: weights, gradients, optimiser state and activations.
"""
    path = REPOSITORY / "benchmarks" / "results" / "rollouts-cpu.md"
    path.write_text(text, encoding="utf-8")
    return path
