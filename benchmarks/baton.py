"""Two live workers hand each other a baton, so that both meet the same machine.

Timing A for a minute and then B for a minute measures the neighbours as much as the code: a shared machine
is faster now than it will be in a minute. Here both processes are started once and stay alive; the
conductor sends "go N" to one of them at a time, in the order A B, B A, A B … so that a slow drift of the
machine weighs on both alike. Each round gives one *paired* ratio; the median of them is the result.

Protocol, one JSON object per line on the worker's stdout:
    worker → {"ready": …}     loaded, waiting        conductor → "plan […]"    rows of each step, where TRL chose them
    worker → `Lap` as JSON    done, waiting          conductor → "go N"        make N optimiser steps
                                                     conductor → "profile N"   likewise, with PyTorch's profiler
                                                     end of file on stdin: the worker leaves

On a GPU a lap's memory is what PyTorch held there at most, and its time is wall time between two moments at which the
GPU had nothing left to do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from benchmarks import device

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.profiler import profile

# With several in sight, TRL's trainers would spread over all of them by themselves.
ONE_GPU = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]}
REPOSITORY = Path(__file__).resolve().parent.parent


CEILING = "ceiling"  # the worker of matmul.py


@dataclass
class Lap:
    """What one "go N" took. `losses` has one entry per optimiser step."""

    # What counts: on a CPU the user + system time of all threads (waiting for a busy core does not count), on a GPU
    # wall time.
    seconds: float = 0.0
    wall_seconds: float = 0.0
    read_tokens: int = 0  # positions that went through the model that is trained, padding included
    working_memory_mb: float = 0.0  # highest since the start, above the loaded, idle process (GPU: above its weights)
    losses: list[float] = field(default_factory=list)
    useful_tokens: int = 0  # where the worker writes its own sequences: nobody else knows their lengths
    parts: dict[str, float] = field(default_factory=dict)  # seconds of a step's parts, by name
    part_flops: dict[str, float] = field(default_factory=dict)  # and the arithmetic that they cannot avoid
    part_tokens: dict[str, int] = field(default_factory=dict)  # and what they wrote
    kinds: dict[str, float] = field(default_factory=dict)  # of a profiled lap: seconds by kind of work


def gflops(laps: Sequence[Lap], size: str) -> list[float]:
    """The speed of one part of each lap."""
    return [lap.part_flops[size] / lap.parts[size] / 1e9 for lap in laps]


class WorkerFailed(RuntimeError):
    """A worker ended or spoke something else than the protocol; the message holds the end of its stderr."""


# --- the worker's side ---------------------------------------------------------------------------------


class Baton:
    """Held by a worker: `wait()` before each step blocks until this process may go on."""

    def __init__(self, on: str = "cpu") -> None:
        # Libraries print to stdout whenever they like: keep the pipe for ourselves, send theirs to stderr.
        self._pipe: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._device = on
        self._steps_left = 0
        self._lap: Lap | None = None
        self._idle_mb = 0.0
        self._started_wall = self._started = 0.0
        self._profile: profile | None = None

    def ready(self, **facts: Any) -> None:
        """Loading is over: from here on memory and time count."""
        self._idle_mb = device.reset_peak_memory(self._device)
        if "empty_mb" in facts:  # of the process before it had any model
            facts["loaded_mb"] = self._idle_mb - facts["empty_mb"]
        print(json.dumps({"ready": facts}), file=self._pipe)

    def receive_plan(self) -> list[list[int]]:
        """Which rows make up each step, as the other side announced them."""
        command, _, plan = sys.stdin.readline().partition(" ")
        assert command in ("plan", ""), command
        found: list[list[int]] = json.loads(plan or "[]")
        return found

    def wait(self) -> bool:
        """Report the lap if its steps are made, then block for the next one. False: nobody wants more steps."""
        if self._steps_left == 0:
            if self._lap is not None:
                self._report(self._lap)
            command = sys.stdin.readline().split()
            if not command:
                return False
            self._steps_left = int(command[1])
            self._lap = Lap()
            if command[0] == "profile":
                self._profile = device.start_profile(self._device)
            self._started_wall, self._started = time.perf_counter(), device.clock(self._device)
        self._steps_left -= 1
        return True

    def watch(self, embedding: nn.Module) -> None:
        """Count what the model reads to learn from; a reference that only reads forward is left out."""
        import torch

        def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if torch.is_grad_enabled():
                self.lap.read_tokens += inputs[0].numel()

        embedding.register_forward_pre_hook(count)

    def count_work(self, useful_tokens: int, part_flops: dict[str, float]) -> None:
        """What a worker wrote itself asks for, part by part."""
        lap = self.lap
        lap.useful_tokens += useful_tokens
        for name, flops in part_flops.items():
            lap.part_flops[name] = lap.part_flops.get(name, 0.0) + flops

    @property
    def lap(self) -> Lap:
        assert self._lap is not None, "no lap has begun"
        return self._lap

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The time of what happens inside counts as this part of the step; one part may lie inside another."""
        started = device.clock(self._device)
        yield
        taken = device.clock(self._device) - started
        self.lap.parts[name] = self.lap.parts.get(name, 0.0) + taken

    def add_loss(self, loss: float) -> None:
        self.lap.losses.append(loss)

    def _report(self, lap: Lap) -> None:
        lap.seconds = device.clock(self._device) - self._started
        lap.wall_seconds = time.perf_counter() - self._started_wall
        lap.working_memory_mb = device.peak_memory_mb(self._device) - self._idle_mb
        if self._profile is not None:
            lap.kinds = device.seconds_by_kind(self._profile, self._device)
            self._profile = None
        print(json.dumps(asdict(lap)), file=self._pipe)


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
            | {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}  # PyTorch's threads, tokenizers'
            | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
            | ONE_GPU
            | (environment or {}),
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        if error is not None:
            self._process.kill()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:  # a library's farewell; its laps are told already
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def wait_until_ready(self) -> dict[str, Any]:
        """The facts of the worker's ready line (what its plan of rows per step is, for instance)."""
        facts: dict[str, Any] = self._read_line()["ready"]
        return facts

    def send_plan(self, plan: list[list[int]]) -> None:
        self._send(f"plan {json.dumps(plan)}")

    def go(self, steps: int) -> Lap:
        self._send(f"go {steps}")
        return Lap(**self._read_line())

    def profile(self, steps: int) -> Lap:
        """Steps that are looked into; they take longer, so their time says nothing by itself."""
        self._send(f"profile {steps}")
        return Lap(**self._read_line())

    def _send(self, command: str) -> None:
        assert self._process.stdin
        try:
            print(command, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self._read_line()  # it has ended: say why
            raise

    def _read_line(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise WorkerFailed(f"{self.name} ended with code {self._process.wait()}:\n{self._errors.read()[-4000:]}")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise WorkerFailed(f"{self.name} said what is no part of the protocol: {line[:200]!r}") from None
        return answer


def alternate(workers: Sequence[Worker], rounds: int, steps: int) -> None:
    """A B, B A, A B …: `rounds` laps of `steps` steps each, recorded in `worker.laps`. One is enough of a ceiling."""
    for round_number in range(rounds):
        for worker in workers if round_number % 2 == 0 else reversed(workers):
            worker.laps.append(worker.go(1 if worker.name == CEILING else steps))
