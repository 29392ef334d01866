"""What befalls a run, what it may leave behind, and how its owner goes on: until it has come to its end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

from auto_bot_tuner.training import run_folder
from auto_bot_tuner.training.reporting import write_report
from auto_bot_tuner.training.run_folder import checkpoints, leftovers
from auto_bot_tuner.training.soundness import STATE_FILE, is_sound
from tests import faults
from tests.fault_runs import METHODS
from tests.faults import Outcome, Watch, run_in_child
from tests.rl_runs import OF_THE_CLOCK

# kill -9 in a part of a run; `moment`: from outside, whenever the clock says so.
KILLED_IN = (
    *("step", "backward", "rollout", "save", "prune", "evaluation", "final", "report", "log", "torn", "record"),
    *("start", "moment", "anywhere"),
)
SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT, "two signals": signal.SIGTERM}
DISK = ("full disk", "no room in a file", "read-only folder")
DAMAGE = ("truncated", "flipped bit", "missing file", "empty state", "state of another")
KINDS = (*KILLED_IN, *SIGNALS, *DISK, *DAMAGE)
ROOM = "size=40m"


class Whole(NamedTuple):
    """The run that nothing happened to."""

    folder: Path
    counts: dict[str, int]
    seconds: float


@cache
def whole_run(method: str, parent: Path) -> Whole:
    folder = parent / method / "disk" / "run"  # the last two names stand in the lineage
    folder.parent.mkdir(parents=True)
    began = time.monotonic()
    outcome = run_in_child(lambda: METHODS[method](folder), folder, is_counted=True)
    assert outcome.code == 0, outcome.said
    return Whole(folder, outcome.counts, time.monotonic() - began)


class Trial:
    """One run of a method that is struck, goes on, is struck again, and must end as the whole one did."""

    def __init__(self, method: str, seed: str, whole: Whole, place: Path, again: float = 0.4) -> None:
        """`again`: the probability that what goes on is killed too, and so on."""
        self.method, self.whole, self.random, self.again = method, whole, random.Random(seed), again
        self.disk = place / "disk"
        self.folder = self.disk / "run"
        self.disk.mkdir()
        self.kills: list[str] = []  # what struck, in order
        self.is_damaged = ""  # the checkpoint that was damaged by hand

    def play(self, kind: str) -> None:
        if kind == "full disk" and not faults.mount("tmpfs", self.disk, "tmpfs", 0, ROOM):
            kind = "no room in a file"
        try:
            self.strike(kind)
            while self.random.random() < self.again:
                self.strike(self.random.choice(KILLED_IN))
            self.go_on()
            assert not (found := differences(self.folder, self.whole.folder)), found
        finally:
            faults.unmount(self.disk)

    # ---- a session of the run ----

    def session(self, *strike: Any, seconds: float | None = None) -> Outcome:
        """Start, or go on as the command line says, and let `strike` happen."""
        settings: dict[str, Any] = {}
        if leftovers(self.folder):
            settings = {"resume": True} if any(map(is_sound, checkpoints(self.folder))) else self.refused()
        make = METHODS[self.method]
        outcome = run_in_child(
            lambda: make(self.folder, **settings), self.folder, strike if strike else None, seconds=seconds
        )
        assert "Traceback" not in outcome.said and "unexpected" not in outcome.said, outcome.said
        if settings.get("resume") and self.is_damaged and "resumed from" in outcome.said:
            assert f"damaged, passed over: {self.is_damaged}" in outcome.said.replace("\n", " "), outcome.said
        victim = self.folder / self.is_damaged
        if self.is_damaged and (is_sound(victim) or not victim.exists()):  # written anew, or pruned
            self.is_damaged = ""
        return outcome

    def refused(self) -> dict[str, Any]:
        """Without a checkpoint to go on from the run says so, and with what to start anew."""
        outcome = run_in_child(lambda: METHODS[self.method](self.folder, resume=True), self.folder)
        said = outcome.said.strip()
        assert outcome.code == 1 and "nothing to resume" in said and "--overwrite" in said, said
        self.is_damaged = ""
        return {"overwrite": True}

    def go_on(self) -> None:
        """Undisturbed to the end. Where a kill fell behind the end, there is nothing left to do, and it says that."""
        outcome = self.session()
        assert outcome.code == 0, outcome.said

    # ---- what strikes ----

    def strike(self, kind: str) -> None:
        if kind in KILLED_IN and kind != "moment" and not self.whole.counts.get(kind):
            kind = "evaluation"  # not every method has rollouts, or draws a report
        if kind in KILLED_IN:
            self.kill(kind)
        elif kind in SIGNALS:
            self.signal(kind)
        elif kind in DISK:
            self.deny(kind)
        else:
            self.kill("step", late=True)
            self.damage(kind)
            return
        self.check_left()

    def number(self, part: str, late: bool = False) -> int:
        """Of what happens in a part of the whole run: any; `late`, of its last third."""
        count = self.whole.counts[part]
        return self.random.randrange(count * 2 // 3 if late else 0, count)

    def kill(self, part: str, late: bool = False) -> None:
        if part == "moment":
            outcome = self.session(seconds=self.random.uniform(0, 1.2 * self.whole.seconds))
        else:
            outcome = self.session(part, self.number(part, late), lambda watch: faults.kill())
        assert outcome.code in (-signal.SIGKILL, 0), outcome.said  # 0: a resumed run has less before it
        self.kills += [f"kill -9, {part}"] if outcome.code else []

    def signal(self, kind: str) -> None:
        number, gap = SIGNALS[kind], self.random.randrange(1, 3000)

        def send(watch: Watch) -> None:
            if kind == "two signals" and watch.number >= 0:
                watch.part, watch.number, watch.strike = "anywhere", watch.counts["anywhere"] + gap, again
            faults.kill(number)

        def again(watch: Watch) -> None:
            faults.kill(number)

        before = checkpoints(self.folder)
        outcome = self.session("anywhere", self.number("anywhere"), send)
        assert outcome.code in (128 + number, 0), outcome.said  # 0: it came while final/ was being written
        if outcome.code:
            self.kills.append(kind)
            said = outcome.said.strip().splitlines()[-1]
            assert said.startswith("error: "), outcome.said
            if "stopped after step" in said:
                saved = checkpoints(self.folder)[-1]
                assert saved not in before and str(saved) in said and "--resume" in said
            else:  # before the loop began, or at once by the second signal
                assert "terminated" in said or "interrupted" in said or (kind == "two signals" and "second" in said)
        assert not (self.folder / run_folder.LOCK).exists()

    def deny(self, kind: str) -> None:
        room = self.random.randrange(200_000)
        self.folder.mkdir(exist_ok=True)
        if kind == "read-only folder" and not faults.mount(str(self.folder), self.folder, "", faults.BIND):
            kind = "no room in a file"
        deny = {
            "full disk": lambda watch: faults.fill(self.disk, room),
            "no room in a file": lambda watch: faults.no_file_grows_past(20_000 + room // 5),
            "read-only folder": lambda watch: faults.make_read_only(self.folder),
        }[kind]
        try:
            outcome = self.session("anywhere", self.number("anywhere"), deny)
        finally:
            if kind == "read-only folder":
                faults.unmount(self.folder)
            (self.disk / "ballast").unlink(missing_ok=True)
        assert outcome.code in (0, 1), outcome.said  # 0: nothing was left to write, or it fitted
        if outcome.code:
            self.kills.append(kind)
            error = outcome.said[outcome.said.index("error: ") :].strip()
            assert "\n" not in error and str(self.folder) in error, outcome.said

    def damage(self, kind: str) -> None:
        """To the newest checkpoint, as a copy that was cut short, a bad disk or a mistaken hand would."""
        newest = next(iter(checkpoints(self.folder)[::-1]), None)
        if newest is None:
            return
        state, victim = newest / STATE_FILE, self.random.choice(sorted(newest.glob("*.safetensors")))
        content = bytearray(victim.read_bytes())
        if kind == "truncated":
            victim.write_bytes(content[: len(content) // 2])
        elif kind == "flipped bit":
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
            victim.write_bytes(content)
        elif kind == "missing file":
            victim.unlink()
        elif kind == "empty state":
            state.write_text("{}")
        else:  # same sizes, other content
            shutil.copyfile(self.whole.folder / "checkpoint-8" / STATE_FILE, state)
            if newest.name == "checkpoint-8":
                shutil.copyfile(self.whole.folder / "checkpoint-6" / STATE_FILE, state)
        self.is_damaged = newest.name
        self.kills.append(kind)

    # ---- what may be left ----

    def check_left(self) -> None:
        """After a fault every checkpoint is whole and can be read, so is final/; of the rest a report can be made."""
        whole = [*checkpoints(self.folder), *(path for path in [self.folder / "final"] if path.exists())]
        for path in whole:
            assert path.name == "final" or path.name == self.is_damaged or is_sound(path), path
            for file in path.rglob("*.safetensors"):
                assert path.name == self.is_damaged or load_file(file) is not None
            assert path.name != "final" or ((path / "README.md").stat().st_size and (path / "config.json").exists())
        if self.folder.exists():
            trouble = write_report(self.folder)
            assert not trouble or "no metrics yet" in trouble, trouble
            if not (self.whole.folder / "report.html").exists():
                (self.folder / "report.html").unlink(missing_ok=True)


# ---- equal in every bit, but for the clock ----


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two finished runs: names, or files with their content."""
    # Which older checkpoints are kept hangs on where it was interrupted; how many, and the last, does not.
    numbered = [[path.name for path in checkpoints(folder)] for folder in (one, other)]
    names = [
        sorted({path.name for path in folder.iterdir()} - {*old[:-1]})
        for folder, old in zip((one, other), numbered, strict=True)
    ]
    if len(numbered[0]) != len(numbered[1]):
        names = numbered
    found = [] if names[0] == names[1] else [f"{names[0]} instead of {names[1]}"]
    for path in sorted(path for path in other.rglob("*") if path.is_file()):
        name = path.relative_to(other)
        if (name.parts[0].startswith("checkpoint-") and name.parts[0] != "checkpoint-8") or name.suffix in {
            ".html",
            ".png",
        }:
            continue  # which older ones are kept hangs on where it was interrupted; of pictures, that they are there
        if not (one / name).exists():
            found.append(f"{name} is missing")
        elif content(one / name, one) != content(path, other):
            found.append(str(name))
    return found


def content(path: Path, folder: Path) -> Any:
    if path.suffix == ".safetensors":
        return path.read_bytes()
    text = path.read_text(encoding="utf-8").replace(str(folder), "RUN")
    if path.suffix == ".jsonl":
        return [without_clock(json.loads(line)) for line in text.splitlines()]
    if path.suffix == ".json":
        return without_clock(json.loads(text))
    return [line for line in text.splitlines() if "tokens/s" not in line and "| time" not in line]


def without_clock(found: Any) -> Any:
    if isinstance(found, dict):
        hidden = {*OF_THE_CLOCK, "seconds", "started", "files", "checksums", "checksum", "hardware"}
        return {name: without_clock(value) for name, value in found.items() if name not in hidden}
    return [without_clock(value) for value in found] if isinstance(found, list) else found


def show(seed: str, kind: str, trial: Trial) -> str:
    return f"{seed}: {kind} -> {', '.join(trial.kills) or 'nothing struck'} (pid {os.getpid()})"
