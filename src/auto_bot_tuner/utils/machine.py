"""What this machine has, as far as training is concerned: probes that answer quickly and never raise.

Each is one fact. What follows from them stands in `checkup.py`.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
SIDE = 256  # of the matrices that try a precision: large enough to use the units, small enough for an old CPU
CGROUP = Path("/sys/fs/cgroup")
# Of both generations of control groups: the limit, what is used, and in memory.stat what of that is files.
CONTAINERS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class Device:
    """Where the training would run."""

    kind: str  # cpu, cuda or mps
    name: str
    total: int  # bytes of memory
    free: int
    count: int = 1


def processor_name() -> str:
    """The CPU as its maker calls it."""
    import platform

    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> tuple[float, int]:
    """(cores that this process may use, cores of the machine); a container may have half a core."""
    everywhere = os.cpu_count() or 1
    usable = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else everywhere)
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        usable = min(usable, int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup, or "max"
        pass
    return usable, everywhere


def memory() -> tuple[int, int]:
    """(bytes of main memory that this process may have, bytes still free of them)."""
    try:
        import psutil  # type: ignore[import-untyped]  # accelerate brings it

        state = psutil.virtual_memory()
        total, free = int(state.total), int(state.available)
    except (ImportError, OSError):
        return 0, 0
    for limit_file, used_file, cache_line in CONTAINERS:
        try:
            limit = int((CGROUP / limit_file).read_text())
            used = int((CGROUP / used_file).read_text()) - file_cache(CGROUP / limit_file, cache_line)
        except (OSError, ValueError):  # none of this kind, or "max"
            continue
        return min(total, limit), min(free, max(limit - used, 0))
    return total, free


def file_cache(beside: Path, line: str) -> int:
    """Bytes that a container uses for files it has read, and gives back when they are needed."""
    try:
        words = (beside.parent / "memory.stat").read_text().split()
        return int(words[words.index(line) + 1])
    except (OSError, ValueError, IndexError):
        return 0


def disk(path: Path) -> tuple[Path, int, bool]:
    """(the folder that exists on the way to `path`, bytes free there, whether one may write there)."""
    there = next(part for part in (path.absolute(), *path.absolute().parents) if part.is_dir())
    try:
        return there, shutil.disk_usage(there).free, os.access(there, os.W_OK)
    except OSError:
        return there, 0, False


def devices(torch: Any) -> list[Device]:
    """GPUs first, the CPU last."""
    found = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            found.append(Device("cuda", torch.cuda.get_device_name(index), total, free, torch.cuda.device_count()))
    elif torch.backends.mps.is_available():
        total = int(torch.mps.recommended_max_memory())
        found.append(Device("mps", "Apple GPU", total, total - int(torch.mps.driver_allocated_memory())))
    total, free = memory()
    return [*found, Device("cpu", processor_name(), total, free)]


def build(torch: Any) -> str:
    """What this PyTorch was built for."""
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return "Metal (Apple) and CPU" if torch.backends.mps.is_built() else "CPU only"


def try_precision(torch: Any, device: str, precision: str) -> float | None:
    """Milliseconds of a matrix product in this precision under autocast, as training does it; None: not to be had.

    Tried, not looked up: a driver, a build and a card may each support it without the three doing so together.
    """
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    try:
        a = torch.randn(SIDE, SIDE, device=device, requires_grad=True)
        for _ in range(2):  # the first one loads kernels
            began = time.perf_counter()
            with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                product = a @ a
            product.float().sum().backward()
            is_right = bool(torch.isfinite(product).all()) and (dtype is None or product.dtype == dtype)
            took = time.perf_counter() - began
    except Exception:
        # Each backend has its own kinds of error for what it does not have, and a probe never raises.
        return None
    return took * 1000 if is_right else None
