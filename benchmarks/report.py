"""What the benchmark prints: one line per configuration, on the terminal and in benchmarks/results/."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.baton import REPOSITORY, Spread
from benchmarks.workload import HIDDEN, LAYERS, VOCABULARY, source_of_rows

# Losses of two correct programs differ by rounding only. In bfloat16 TRL differs from itself by 1.1e-4 within five
# steps when it cuts the same batch into 4 x 2 rows instead of 1 x 8.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-4}

HEADINGS = (
    "configuration",
    "speed ÷ TRL (CPU time)",
    "(wall time)",
    "useful tokens/s, ours | TRL",
    "memory MB, ours | TRL",
    "memory ÷ TRL",
    "tokens read ÷ useful, ours | TRL",
    "share of matmul ceiling, ours | TRL",
    "largest loss difference",
)


@dataclass(frozen=True)
class Result:
    title: str
    speed: Spread
    wall_speed: Spread
    tokens_per_second: Spread
    peer_tokens_per_second: Spread
    memory_mb: float
    peer_memory_mb: float
    read: float
    peer_read: float
    ceiling_share: Spread
    peer_ceiling_share: Spread
    ceiling_gflops: Spread
    loss_difference: float
    tolerance: float

    @property
    def losses_agree(self) -> bool:
        # Written so that a NaN disagrees.
        return self.loss_difference <= self.tolerance

    def cells(self) -> list[str]:
        return [
            self.title,
            str(self.speed),
            str(self.wall_speed),
            f"{self.tokens_per_second.median:.0f} | {self.peer_tokens_per_second.median:.0f}",
            f"{self.memory_mb:.0f} | {self.peer_memory_mb:.0f}",
            f"{self.memory_mb / self.peer_memory_mb:.2f}",
            f"{self.read:.2f} | {self.peer_read:.2f}",
            f"{self.ceiling_share.median:.0%} | {self.peer_ceiling_share.median:.0%}"
            f" of {self.ceiling_gflops.median:.0f} GFLOP/s",
            f"{self.loss_difference:.1e}{'' if self.losses_agree else ' FAIL'}",
        ]


def machine_description(threads: int, rows: str) -> str:
    """What a reader needs to judge the numbers, and nothing that names the machine."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "accelerate"))
    return (
        f"{os.cpu_count()} {platform.machine()} cores ({_cpu_model()}), {threads} thread(s) per side; {versions}; "
        f"Llama, {LAYERS} layers of {HIDDEN}, {VOCABULARY} words; {source_of_rows(rows)}"
    )


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    values = (line.partition(":")[2].strip() for line in lines)
    names = {line.partition(":")[0].strip(): value for line, value in zip(lines, values, strict=True)}
    matrix_units = "with AMX" if "amx_tile" in names.get("flags", "") else "without AMX"
    return f"{names.get('model name', 'unknown model')}, {matrix_units}"


def write_markdown(name: str, title: str, results: list[Result], machine: str, remarks: str) -> Path:
    """The same table for the repository."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(result.cells() for result in results)]
    table = "\n".join("| " + " | ".join(cell.replace(" | ", " · ") for cell in row) + " |" for row in rows)
    text = f"""# {title} against TRL, on a CPU

Made by `make benchmark`. {machine}.

{table}

Speed: how many times less time our trainer takes for the same optimiser steps; median of paired rounds, with the
smallest and largest. CPU time is user and system time of all threads; on a busy machine wall time measures the
neighbours. *Useful* tokens are those of the sequences, padding left out; *read* are those that go through the trained
model, padding and all. Memory is the highest resident memory above the loaded, idle process: gradients, optimiser state
and activations. The ceiling is the speed of one 1024 × 1024 matrix product in the same number type, measured in the
same interleaving; the share counts the arithmetic that the rows need (no padding, nothing twice, logits at trained
positions only).

{remarks}
Ours: its defaults in every line. TRL's gradient checkpointing is off, which is kinder to it than its default. Both
sides get the same rows in the same steps and log at every step. A loss that differs by more than
{TOLERANCE["fp32"]:.0e} (bf16: {TOLERANCE["bf16"]:.0e}; TRL differs from itself by 1e-04 there when it cuts its batch
otherwise) voids a line.
"""
    path = REPOSITORY / "benchmarks" / "results" / f"{name}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
