"""What differs between a CPU and a GPU when one measures: the clock, the memory, the profiler, the ceiling's sizes.

A GPU works on after Python has gone ahead, so its clock first waits until nothing is left to do.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.profiler import profile

# Side of the square matrix product that is the ceiling: large enough for full speed, small enough to be quick.
CEILING_SIDE = {"cpu": 1024, "cuda": 8192}
# Tokens of the products at the model's own sizes: our chunk of logits on a CPU, a well-filled batch on a GPU.
CEILING_TOKENS = {"cpu": 512, "cuda": 8192}

# By a piece of an operation's name (lower case), first match wins. All else is element-wise work, copies and sums.
KINDS = {
    "attention": ("scaled_dot_product", "flash_attention", "fmha", "attention"),
    "optimiser": ("adam", "multi_tensor_apply"),
    "products": (
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::baddbmm",
        "mkldnn",
        "gemm",
        "cutlass",
        "cublas",
        "nvjet",
    ),
    "softmax": ("softmax", "logsumexp", "aten::exp_", "aten::amax"),
}
REST = "rest"


def clock(device: str) -> float:
    """Seconds: CPU time of all threads, or wall time once the GPU is idle."""
    if device == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak_memory(device: str) -> float:
    """Set the high-water mark to what is held now (importing and tokenising have peaks too); return it in MiB."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
        return _memory_line("VmRSS")
    import torch

    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def peak_memory_mb(device: str) -> float:
    """The high-water mark: resident memory, or what PyTorch had allocated on the GPU."""
    if device == "cpu":
        return _memory_line("VmHWM")
    import torch

    return torch.cuda.max_memory_allocated() / 2**20


def _memory_line(name: str) -> float:
    """One line of /proc/self/status in MiB, e.g. VmRSS (resident now) or VmHWM (its high-water mark)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}: the benchmark measures memory on Linux only")


def start_profile(device: str) -> profile:
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    profiler = profile(activities=activities)
    profiler.__enter__()
    return profiler


def seconds_by_kind(profiler: profile, device: str) -> dict[str, float]:
    """End a profile; the seconds of each operation itself, summed by kind."""
    profiler.__exit__(None, None, None)
    found = {**dict.fromkeys(KINDS, 0.0), REST: 0.0}
    for event in profiler.key_averages():
        if device != "cpu" and (event.device_type.name == "CPU" or event.is_user_annotation):
            continue  # the kernels themselves are listed too: count each once
        microseconds = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
        found[kind_of(event.key)] += microseconds / 1e6
    return found


def kind_of(operation: str) -> str:
    name = operation.lower()
    return next((kind for kind, pieces in KINDS.items() if any(piece in name for piece in pieces)), REST)
