"""Code that runs in two processes on this CPU, as `torchrun` starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# As `accelerate launch --config_file configs/launch/fsdp.yaml` sets them.
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
# As `accelerate launch --config_file configs/launch/deepspeed_zero2.yaml` does.
ZERO = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
}


def start_two(worker: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the file in two processes to its end, which must come within minutes."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            str(worker),
            *arguments,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT}:{ROOT}/src:{os.environ.get('PYTHONPATH', '')}",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=200,
    )


def run_in_two(worker: Path, *arguments: str, **environment: str) -> None:
    """Run the file in two processes; what they say last is told where they fail."""
    done = start_two(worker, *arguments, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
