"""What a record is of: the machine, the versions and the code. Nothing here names the machine or its owner."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.baton import REPOSITORY
from benchmarks.workload import shared_data

MEASURED = ("src/auto_bot_tuner", "benchmarks", "commands", "main.py")  # the code whose change makes figures old
VERSIONS = ("torch", "transformers", "trl", "accelerate", "peft")


def setting(device: str, threads: int) -> dict[str, Any]:
    """Two records may share their lines only if all of this is the same."""
    return {
        "device": device,
        "machine": gpu() if device == "cuda" else cpu(),
        "threads": threads,
        "gpu": gpu() if has_gpu() else "",
        "rows": "real rows of alpaca and hh-rlhf" if shared_data() else "log-normal lengths fitted to the data sets",
        "versions": {name: version(name) for name in VERSIONS},
        "commit": commit(),
        "sources": sources(),
    }


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    matrix_units = "with AMX" if "amx_tile" in facts.get("flags", "") else "without AMX"
    return f"{os.cpu_count()} {platform.machine()} cores ({facts.get('model name', 'unknown model')}, {matrix_units})"


def gpu() -> str:
    import torch

    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda or torch.version.hip}"


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def commit() -> str:
    """The commit, and whether the tree had changes that it does not hold."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = " with changes" * bool(git("status", "--porcelain", "--untracked-files=no", "--", *MEASURED))
        return git("rev-parse", "--short=10", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return "no git"


def sources() -> str:
    """A hash of the measured code: what a commit says only where nothing was changed since."""
    digest = hashlib.sha256()
    for place in MEASURED:
        path = REPOSITORY / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(REPOSITORY).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
