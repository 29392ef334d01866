"""What a run was computed on and with: the machine, and the versions of what it is built on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

# What a result may depend on, from the ground up.
LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "datasets", "accelerate", "safetensors", "auto_bot_tuner")


def machine() -> dict[str, Any]:
    """`processor`, `cores` (those that this process may use), `memory_gib`, `gpu` (its name, or None)."""
    import torch

    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": processor(), "cores": len(usable), "memory_gib": memory_gib(), "gpu": gpu}


def processor() -> str:
    """The processor's name; Linux alone does not tell it to Python."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = ""
    return name or platform.processor() or platform.machine()


def memory_gib() -> float | None:
    """Main memory of the machine; None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def versions() -> dict[str, str]:
    """Of Python and of the libraries; one that runs from a checkout without being installed has none."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
