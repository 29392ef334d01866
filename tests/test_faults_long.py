"""A hundred kills over every method: whatever strikes a run, the resumed one ends with the bits of the whole one.

Each case is its own seed. To see one again:

    pytest -m long "tests/test_faults_long.py::test_kill[sft-full-7]"
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from auto_bot_tuner.training.run_folder import checkpoints
from tests.fault_cases import KINDS, Trial, whole_run
from tests.fault_runs import METHODS
from tests.processes import ROOT
from tests.training_runs import logged, weights

EACH = 12  # cases to a method
STRUCK: Counter[tuple[str, str]] = Counter()


def kind_of(method: str, number: int) -> str:
    """Every kind in turn; each method begins at another."""
    return KINDS[(number + EACH * list(METHODS).index(method)) % len(KINDS)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [f"{method}-{number}" for method in METHODS for number in range(EACH)])
def test_kill(seed: str, runs: Path, tmp_path: Path) -> None:
    method, _, number = seed.rpartition("-")
    kind = kind_of(method, int(number))
    trial = Trial(method, seed, whole_run(method, runs), tmp_path)
    try:
        trial.play(kind)
    finally:
        print(f"seed {seed}: {kind}; struck: {', '.join(trial.kills) or 'nothing'}")
    STRUCK.update((method, what) for what in trial.kills)


@pytest.mark.long
def test_so_many_kills_there_were() -> None:
    """The table of benchmarks/results/test-long.md; asks for a hundred where all cases ran."""
    if len({method for method, _ in STRUCK}) < len(METHODS):
        pytest.skip("only some of the cases ran")
    for title, place in (("method", 0), ("kind", 1)):
        print(f"by {title}: " + ", ".join(f"{name} {n}" for name, n in by(place).most_common()))
    print(f"{STRUCK.total()} in all")
    assert STRUCK.total() >= 100


def by(place: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for key, count in STRUCK.items():
        found[key[place]] += count
    return found


# ---- two processes ----

WORKER = """
import os, sys
from pathlib import Path
import main
from tests.training_runs import small_trainer

folder, victim, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume"
shared = {"batch_size": 2, "gradient_accumulation_steps": 2, "eval_steps": 4, "save_steps": 2, "noisy": True}
trainer = small_trainer(folder, resume=resume, **shared)
assert trainer.processes == 2
learn = trainer.learn_from

def learn_or_die(micro_batches):
    if (trainer.state.step, trainer.rank) == (3, victim):
        os.kill(os.getpid(), 9)
    return learn(micro_batches)

trainer.learn_from = learn_or_die
sys.exit(main.guarded(lambda: trainer.train() and 0, debug=False))
"""


def two_processes(worker: Path, folder: Path, victim: int, resume: str = "") -> list[tuple[int, str]]:
    """Without a launcher, which would end the one when the other dies: of each its exit code and what it said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT}/src"}
    command = [sys.executable, str(worker), str(folder), str(victim), resume]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


@pytest.mark.long
@pytest.mark.timeout(900)  # six starts of Python and torch, on a machine that may have other work
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_processes_dies(victim: int, tmp_path: Path) -> None:
    """The other one says so in a line and ends; together they go on, to the bits of two that nothing happened to."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    assert [code for code, _ in two_processes(worker, tmp_path / "whole", -1)] == [0, 0]
    outcomes = two_processes(worker, tmp_path / "run", victim)
    code, said = outcomes[1 - victim]
    assert outcomes[victim][0] == -signal.SIGKILL and code == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"error: process {1 - victim} of 2 lost another one (") and "--resume" in last, said
    assert "Traceback" not in said
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    assert [code for code, _ in two_processes(worker, tmp_path / "run", -1, "resume")] == [0, 0]
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")
    one, other = (weights(tmp_path / name / "final") for name in ("run", "whole"))
    assert all(tensor.equal(other[name]) for name, tensor in one.items())


# ---- the real command ----


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_at_any_moment_of_the_command(seed: int, number: int, code: int, tmp_path: Path) -> None:
    """While Python starts, while the model is loaded, in a step, in a save: no traceback, and the command goes on."""
    folder = tmp_path / "run"
    flags = "--model tiny --no-lora --max-samples 50 --max-length 128 --max-steps 6 --save-steps 2"
    rows = ["--dataset", "tiny-instructions", "--output-dir", str(folder), "--report-to"]
    command = [sys.executable, "main.py", "train-sft", *flags.split(), *rows]
    wait = random.Random(f"{seed}-{number}").uniform(0.3, 12)
    print(f"signal {number} after {wait:.1f} s")
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(wait)
    started.send_signal(number)
    try:
        _, error = started.communicate(timeout=300)
    finally:
        started.kill()
    assert started.returncode in (code, 0, -number), error  # -number: Python had not begun to run our code
    if started.returncode == code:
        assert "Traceback" not in error and error.strip().splitlines()[-1].startswith("error: "), error
    if checkpoints(folder):
        again = subprocess.run(
            [*command[:-1], "--resume", "--report-to"], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert again.returncode == 0 and (folder / "final").exists(), again.stderr
