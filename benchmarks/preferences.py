"""Reward models and DPO side by side with TRL's RewardTrainer and DPOTrainer: speed, memory, equal losses.

    python -m benchmarks.preferences                              every configuration, one thread, 1-2 minutes each
    python -m benchmarks.preferences --rounds 3 reward dpo-copy   two configurations, three paired rounds

Both sides train the same model (score head or adapter too) on the same pairs in the same optimiser steps, with the same
learning rate, AdamW and clipping, and log the same kind of metrics at every step. Where a loss differs by more than
the tolerance, the comparison is void and the exit code is 1. Results go to benchmarks/results/preferences-cpu.md.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.pairs import build_pairs, work_of
from benchmarks.side_by_side import Benchmark, Configuration
from benchmarks.task import Task
from benchmarks.workload import Work

KINDS = {
    "reward": ("reward model", Task(method="reward")),
    "dpo-copy": ("DPO, reference a copy", Task(method="dpo", reference="copy")),
    "dpo-lora": (
        "DPO on LoRA, reference with adapter off",
        Task(method="dpo", reference="adapter_off", learning_rate=2e-4),
    ),
    "dpo-precomputed": ("DPO, reference computed before", Task(method="dpo", reference="precomputed")),
}


def at_its_best(task: Task, micro_batch: int) -> Task:
    return replace(task, variant="best", micro_batch=micro_batch)


CONFIGURATIONS = {}
for name, (title, task) in KINDS.items():
    CONFIGURATIONS[name] = Configuration(f"{title}; TRL out of the box", task)
    CONFIGURATIONS[f"{name}-best"] = Configuration(f"{title}; TRL at its best", at_its_best(task, 2), tuned_malloc=True)

REMARKS = """"Out of the box": 8 pairs a step, as `per_device_train_batch_size` is. "At its best": pairs grouped by
length, micro-batches of 2 pairs accumulated, malloc told to keep its memory.
A pair's prompt stands in both of its sequences; ours reads it once, so it reads fewer tokens than are useful.
"""


def works(task: Task, steps: list[list[int]]) -> list[Work]:
    pairs = build_pairs(task.rows, task.max_length)
    return [work_of([pairs[i] for i in step], task) for step in steps]


BENCHMARK = Benchmark(
    title="Reward models and DPO",
    record="preferences-cpu",
    ours="benchmarks.ours_preferences",
    peer="benchmarks.peer_trl_preferences",
    rows="hh-rlhf",
    configurations=CONFIGURATIONS,
    works=works,
    remarks=REMARKS,
    steps_per_lap=1,  # TRL's take ten seconds and more
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run(__doc__))
