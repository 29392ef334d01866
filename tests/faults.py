"""Kill a run where it hurts, deterministically: at the n-th thing that happens in a part of it.

A run counts what happens: every line of our code (and of AdamW) that runs, every file that is opened for writing,
renamed or deleted, every gradient that arrives, each under the part of the run that it belongs to. A first run counts,
and nothing else; a fault is then a part and a number in it, both drawn from a seed, so that one seed always strikes
at the same line. Children are forked from a process that has imported everything: a kill costs a second.
"""

from __future__ import annotations

import ctypes
import errno
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

import main as command_line
from auto_bot_tuner.rollouts.trainer import OnPolicyTrainer
from auto_bot_tuner.training import checkpoint, record, reporting, run, run_folder
from auto_bot_tuner.training.events import Event
from auto_bot_tuner.training.loop import Trainer

OURS = str(Path(run.__file__).parent.parent)
ADAM = sys.modules[torch.optim.Adam.__module__].__file__
# The parts of a run, by the function that is one. What happens inside of two of them belongs to the inner one.
PARTS: dict[CodeType, str] = {
    run.Run.start.__code__: "start",
    run.Run.evaluate.__code__: "evaluation",
    run.Run.finish.__code__: "final",
    Trainer.learn_from.__code__: "step",
    checkpoint.save_checkpoint.__code__: "save",
    run_folder.prune.__code__: "prune",
    run_folder.cut_logs.__code__: "cut logs",
    record.Record.write.__code__: "record",
    reporting.append_line.__code__: "log",
    reporting.write_report.__code__: "report",
    OnPolicyTrainer.make_rollout.__code__: "rollout",
}
WRITING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


Strike = Callable[["Watch"], None]


class Watch:
    """Counts what happens in each part of a run, and calls `strike` when the count of `part` reaches `number`."""

    def __init__(
        self, folder: Path, part: str = "", number: int = -1, strike: Callable[[], None] | None = None
    ) -> None:
        self.folder, self.part, self.number, self.strike = str(folder), part, number, strike
        self.counts: Counter[str] = Counter()
        self.inside = ["elsewhere"]

    def tick(self, part: str = "") -> None:
        for name in (part or self.inside[-1], "anywhere"):
            self.counts[name] += 1
            if name == self.part and self.counts[name] == self.number + 1 and self.strike is not None:
                self.strike(self)

    def begin(self) -> None:
        sys.addaudithook(self.audit)
        sys.settrace(self.trace)

    def audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        writes = name in WRITING or (name == "open" and isinstance(arguments[1], str) and set("wax+") & {*arguments[1]})
        if writes and str(arguments[0]).startswith(self.folder):
            self.tick()

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Called for every function that is called; the returned one for each of its lines."""
        code = frame.f_code
        if code in PARTS:
            self.inside.append(PARTS[code])
            return self.trace_part
        return self.trace_line if code.co_filename.startswith(OURS) or code.co_filename == ADAM else None

    def trace_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.tick()
        return self.trace_line

    def trace_part(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.tick()
        elif event == "return":
            self.inside.pop()
        return self.trace_part

    def watch_gradients(self, trainer: Trainer) -> None:
        """The middle of a backward pass runs no Python but these."""
        for parameter in trainer.trained_parameters().values():
            parameter.register_hook(lambda gradient: self.tick("backward"))

    def watch_writing(self) -> None:
        """A file of which only the first half was written: `torn` counts the writes, and a strike tears one."""
        append, write_bytes = reporting.append_line, Path.write_bytes

        def torn_append(path: Path, line: dict[str, Any]) -> None:
            if self.is_torn():
                text = json.dumps(line, ensure_ascii=False).encode()
                with path.open("ab") as file:
                    file.write(text[: len(text) // 2])
                kill()
            append(path, line)

        def torn_write(path: Path, content: Any) -> int:
            if str(path).startswith(self.folder) and self.is_torn():
                write_bytes(path, content[: len(content) // 2])
                kill()
            return write_bytes(path, content)

        reporting.append_line, Path.write_bytes = torn_append, torn_write  # type: ignore[method-assign]

    def is_torn(self) -> bool:
        self.counts["torn"] += 1
        return self.part == "torn" and self.counts["torn"] == self.number + 1


def kill(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


class Outcome(NamedTuple):
    code: int  # exit code; -9 of a process that was killed
    said: str
    counts: dict[str, int]


def run_in_child(
    make: Callable[[], Trainer],
    folder: Path,
    strike: tuple[str, int, Strike] | None = None,
    seconds: float | None = None,
    is_counted: bool = False,
) -> Outcome:
    """A run in a forked process, as the command line carries it out: an error is one line and an exit code.

    Args:
        strike: a part of the run, a number in it, and what then happens, in the child.
        seconds: kill it from outside after so long.
        is_counted: whether the outcome tells what happened in each part; to look at every line takes time.
    """
    said, counted = folder.parent / "said.txt", folder.parent / "counts.json"
    counted.unlink(missing_ok=True)
    if (child := os.fork()) == 0:
        code = 70
        try:
            code = in_the_child(make, Watch(folder, *(strike or ())), said, counted if is_counted else None)
        except BaseException:
            said.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    code = wait(child, seconds)
    return Outcome(code, said.read_text(), json.loads(counted.read_text()) if counted.exists() else {})


def in_the_child(make: Callable[[], Trainer], watch: Watch, said: Path, counted: Path | None) -> int:
    output = os.open(said, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(output, 1), os.dup2(output, 2)
    sys.stdout, sys.stderr = (open(i, "w", buffering=1, encoding="utf-8", closefd=False) for i in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGTERM, command_line._terminate)

    def work() -> int:
        trainer = make()
        watch.watch_gradients(trainer)
        watch.watch_writing()
        if counted or watch.part not in ("", "torn", "backward"):
            watch.begin()
        trainer.train()
        sys.settrace(None)
        if counted:
            counted.write_text(json.dumps(watch.counts))
        return 0

    return command_line.guarded(work, debug=False)


def wait(child: int, seconds: float | None, patience: float = 300) -> int:
    """The exit code of a child; with `seconds`, killed then."""
    began = time.monotonic()
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        lived = time.monotonic() - began
        if (seconds is not None and lived > seconds) or lived > patience:
            os.kill(child, signal.SIGKILL)
            assert lived <= patience, "the run hangs"
            seconds = None
        time.sleep(0.003)


# ---- the short forms: one run, killed at one event ----


def in_a_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process, which may kill itself; its exit code (-9 for kill -9)."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(timeout=120)
    assert child.exitcode is not None, "the child hangs"
    return child.exitcode


def killing_at(step: int, name: str = "step") -> Callable[[Event], None]:
    def kill(event: Event) -> None:
        if event.name == name and event.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


# ---- a disk that is full, or takes nothing ----

LIBC = ctypes.CDLL(None, use_errno=True)
READ_ONLY, REMOUNT, BIND = 1, 32, 4096  # of mount(2)


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> bool:
    """Whether it could be done: it takes root, and a container that allows it."""
    if not hasattr(LIBC, "mount"):
        return False
    return bool(LIBC.mount(source.encode(), bytes(target), kind.encode(), flags, options.encode()) == 0)


def unmount(target: Path) -> None:
    LIBC.umount2(bytes(target), 2)  # 2: let go of it, even where a file is open


def fill(disk: Path, left: int) -> None:
    """A file beside the run takes all room of a small file system but `left` bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free - left, 1))


def no_file_grows_past(size: int) -> None:
    """A full disk without a mount: the kernel refuses every write beyond `size` bytes, whoever writes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def make_read_only(folder: Path) -> None:
    """Of a folder that was mounted onto itself. Files that are open for writing stand in the way for a moment."""
    if not mount("none", folder, "", REMOUNT | BIND | READ_ONLY):
        code = ctypes.get_errno()
        assert code == errno.EBUSY, os.strerror(code)
