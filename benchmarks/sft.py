"""SFT side by side with TRL's SFTTrainer: speed, memory and share of the machine, at equal losses.

    python -m benchmarks.sft                         every configuration, one thread, about a minute each
    python -m benchmarks.sft --threads 2 default     one configuration, two threads

Both sides train the same model on the same rows in the same optimiser steps, with the same trained tokens,
learning rate, AdamW and clipping, and log the same kind of metrics at every step. Where a loss differs by more than
the tolerance, the comparison is void and the exit code is 1. Results go to benchmarks/results/sft-cpu.md.
"""

from __future__ import annotations

import sys

from benchmarks.side_by_side import Benchmark, Configuration
from benchmarks.task import Task
from benchmarks.workload import Work, build_rows, work_of

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

REMARKS = """"Out of the box": 8 rows a step, as `per_device_train_batch_size` is. "At its best": rows grouped by
length, micro-batches of 2 rows (bf16: 4) accumulated, malloc told to keep its memory: the fastest of 1, 2, 4 and 8.
"""


def works(task: Task, steps: list[list[int]]) -> list[Work]:
    rows = build_rows(task.rows, task.max_length, task.completion_only)
    return [work_of([rows[i] for i in step]) for step in steps]


BENCHMARK = Benchmark(
    title="SFT",
    record="sft-cpu",
    ours="benchmarks.ours",
    peer="benchmarks.peer_trl",
    rows="alpaca",
    configurations=CONFIGURATIONS,
    works=works,
    remarks=REMARKS,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run(__doc__))
