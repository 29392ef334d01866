"""Two live workers hand each other a baton, so that both meet the same machine.

Timing A for a minute and then B for a minute measures the neighbours as much as the code: a shared machine
is faster now than it will be in a minute. Here both processes are started once and stay alive; the
conductor sends "go N" to one of them at a time, in the order A B, B A, A B … so that a slow drift of the
machine weighs on both alike. Each round gives one *paired* ratio; the median of them is the result.

Protocol, one JSON object per line on the worker's stdout:
    worker → {"ready": …}     loaded, waiting        conductor → "go N"     make N optimiser steps
    worker → `Lap` as JSON    done, waiting          end of file on stdin: the worker leaves
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import torch
    from torch import nn

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass
class Lap:
    """What one "go N" took. `losses` has one entry per optimiser step."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0  # user + system time of all threads: waiting for a busy core does not count
    read_tokens: int = 0  # positions that went through the model that is trained, padding included
    working_memory_mb: float = 0.0  # highest resident memory since the start, above the loaded, idle process
    losses: list[float] = field(default_factory=list)
    flops: float = 0.0  # only the matmul worker says so itself
    useful_tokens: int = 0  # where the worker writes its own sequences: nobody else knows their lengths
    parts: dict[str, float] = field(default_factory=dict)  # CPU seconds of a step's parts, by name
    part_flops: dict[str, float] = field(default_factory=dict)  # and the arithmetic that they cannot avoid


class WorkerFailed(RuntimeError):
    """A worker ended or spoke something else than the protocol; the message holds the end of its stderr."""


# --- the worker's side ---------------------------------------------------------------------------------


class Baton:
    """Held by a worker: `wait()` before each step blocks until this process may go on."""

    def __init__(self) -> None:
        # Libraries print to stdout whenever they like: keep the pipe for ourselves, send theirs to stderr.
        self._pipe: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._steps_left = 0
        self._lap = Lap()
        self._idle_mb = 0.0
        self._started_wall = self._started_cpu = 0.0

    def ready(self, **facts: Any) -> None:
        """Loading is over: from here on memory and time count."""
        self._idle_mb = reset_peak_memory()
        if "empty_mb" in facts:  # of the process before it had any model
            facts["loaded_mb"] = self._idle_mb - facts["empty_mb"]
        print(json.dumps({"ready": facts}), file=self._pipe)

    def wait(self) -> bool:
        """Report the lap if its steps are made, then block for the next one. False: nobody wants more steps."""
        if self._steps_left == 0:
            if self._started_wall:
                self._report()
            command = sys.stdin.readline().split()
            if not command:
                return False
            self._steps_left = int(command[1])
            self._lap = Lap()
            self._started_wall, self._started_cpu = time.perf_counter(), time.process_time()
        self._steps_left -= 1
        return True

    def watch(self, embedding: nn.Module) -> None:
        """Count what the model reads to learn from; a reference that only reads forward is left out."""
        import torch

        def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if torch.is_grad_enabled():
                self._lap.read_tokens += inputs[0].numel()

        embedding.register_forward_pre_hook(count)

    def count_flops(self, flops: float) -> None:
        self._lap.flops += flops

    def count_work(self, useful_tokens: int, part_flops: dict[str, float]) -> None:
        """What a worker wrote itself asks for, part by part."""
        self._lap.useful_tokens += useful_tokens
        for name, flops in part_flops.items():
            self._lap.part_flops[name] = self._lap.part_flops.get(name, 0.0) + flops

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """CPU time of what happens inside counts as this part of the step; one part may lie inside another."""
        started = time.process_time()
        yield
        self._lap.parts[name] = self._lap.parts.get(name, 0.0) + time.process_time() - started

    def add_loss(self, loss: float) -> None:
        self._lap.losses.append(loss)

    def _report(self) -> None:
        self._lap.wall_seconds = time.perf_counter() - self._started_wall
        self._lap.cpu_seconds = time.process_time() - self._started_cpu
        self._lap.working_memory_mb = peak_memory_mb() - self._idle_mb
        print(json.dumps(asdict(self._lap)), file=self._pipe)


def _memory_line(name: str) -> float:
    """One line of /proc/self/status in MiB, e.g. VmRSS (resident now) or VmHWM (its high-water mark)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}: the benchmark measures memory on Linux only")


def peak_memory_mb() -> float:
    return _memory_line("VmHWM")


def reset_peak_memory() -> float:
    """Set the high-water mark to what is resident now (importing and tokenising have peaks too); return it."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_line("VmRSS")


# --- the conductor's side ------------------------------------------------------------------------------


class Worker:
    """One live process, e.g. `Worker("TRL", "benchmarks.peer_trl", {...})`; use it in a `with`."""

    def __init__(
        self, name: str, module: str, task: dict[str, Any], threads: int, environment: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.laps: list[Lap] = []
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=REPOSITORY,
            # Neither side may phone the hub: a network wait is no property of the code.
            env=os.environ
            | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
            | (environment or {}),
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        if error is not None:
            self._process.kill()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._errors.close()

    def wait_until_ready(self) -> dict[str, Any]:
        """The facts of the worker's ready line (what its plan of rows per step is, for instance)."""
        facts: dict[str, Any] = self._read_line()["ready"]
        return facts

    def go(self, steps: int) -> Lap:
        assert self._process.stdin
        print(f"go {steps}", file=self._process.stdin, flush=True)
        return Lap(**self._read_line())

    def _read_line(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise WorkerFailed(f"{self.name} ended with code {self._process.wait()}:\n{self._errors.read()[-4000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def alternate(workers: Sequence[Worker], rounds: int, steps: int) -> None:
    """A B, B A, A B …: `rounds` laps of `steps` steps each, recorded in `worker.laps`."""
    for round_number in range(rounds):
        for worker in workers if round_number % 2 == 0 else reversed(workers):
            worker.laps.append(worker.go(steps))


@dataclass(frozen=True)
class Spread:
    """The median of paired measurements, with the smallest and the largest beside it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"
