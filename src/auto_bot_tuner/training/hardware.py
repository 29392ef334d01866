"""What a run was computed on and with: the machine, and the versions of what it is built on."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from auto_bot_tuner.utils.machine import GIB, cores, memory, processor_name

# What a result may depend on, from the ground up.
LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "datasets", "accelerate", "safetensors", "auto_bot_tuner")


def machine(device: str) -> dict[str, Any]:
    """`processor`, `cores` (that this process may use), `memory_gib` (None: unknown), `gpu` (None: not used)."""
    import torch

    usable, total = cores()[0], memory()[0]
    return {
        "processor": processor_name(),
        "cores": int(usable) if usable == int(usable) else usable,
        "memory_gib": round(total / GIB, 1) if total else None,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
    }


def versions() -> dict[str, str]:
    """Of Python and of the libraries; one that runs from a checkout without being installed has none."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
