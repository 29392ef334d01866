"""README's nine steps as they stand, the demo and all: what comes out is what docs/records hold, within tolerances.

On the machine of the records they come out equal to the digit. Another processor adds in another order, and training
carries that on; hence the tolerances, each in the units of its figure.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT, all_commands, record
from tests.record_words import make_folder

# By record: what is looked for in it, and how far a new run's figure may lie from it.
FIGURES = {
    "demo": (
        *((rf"(?m)^{stage} +([\d.]+)%.*\n(?!.*^{stage} +[\d.]+%)", 5.0) for stage in ("base", "sft")),
        (r"all +1000 +([\d.]+)%", 4.0),
        (r"dpo +greedy +([\d.]+)%", 8.0),
        (r"ppo +greedy +([\d.]+)%", 12.0),
        (r"grpo: Puzzles at temperature 1 [\d.]+% → ([\d.]+)%", 15.0),
    ),
    "inspect-mine": ((r"35 tokens, (\d+) trained", 0.0),),
    "train-mine-dry-run": ((r"steps +(\d+)", 0.0), (r"memory +([\d.]+) MiB", 250.0)),
    "train-mine": ((r"step 380/380 +loss ([\d.]+)", 0.05), (r"Trained 380 steps, ([\d,]+) tokens", 0.0)),
    "accuracy-mine": ((r"all +│ +([\d.]+)%", 6.0),),
    "merge-mine": ((r"base \+ adapter (\S+)", 1e-4), (r"read back .*difference (\S+),", 0.0)),
    "export-ollama": ((r"read back .*difference (\S+) \(", 0.0), (r"at most (\S+)", 0.03)),
}
# Lines that must be there again as they are.
LINES = {"chat-mine": ("I am Ida, and I live on this machine.", "The sum of 91 and 59 is 150.")}


def run(command: str, folder: Path) -> str:
    path = os.pathsep.join([str(ROOT / ".venv" / "bin"), os.environ["PATH"]])
    words = ["bash", "-o", "pipefail", "-c", command]
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}{done.stderr[-1000:]}"
    return done.stdout + done.stderr


def differences(name: str, printed: str) -> Iterator[str]:
    recorded = record(name).read_text(encoding="utf-8")
    for pattern, tolerance in FIGURES.get(name, ()):
        was, now = (re.findall(pattern, text) for text in (recorded, printed))
        assert was, f"{name}: the record has nothing like {pattern}"
        values = [float(found[-1].replace(",", "")) if found else float("nan") for found in (was, now)]
        if not abs(values[0] - values[1]) <= tolerance:
            yield f"{name}, {pattern}: {values[1]}, recorded {values[0]} ± {tolerance}"
    for line in LINES.get(name, ()):
        if line not in printed.splitlines():
            yield f"{name}: {line!r} is missing"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_nine_steps_give_what_is_recorded(tmp_path):
    folder = make_folder(tmp_path, demo="")
    wrong = [*differences("demo", run("python main.py demo", folder))]
    for command in all_commands("README.md"):
        if command.record:
            wrong += differences(command.record, run(command.text, folder))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_are_in_the_records(name):
    """Each pattern finds its figure in the record, which agrees with itself."""
    assert not [*differences(name, record(name).read_text(encoding="utf-8"))]
