"""Where to compute."""

from __future__ import annotations

import os

import torch

from auto_bot_tuner.utils.errors import UsageError, UserError


def get_device() -> str:
    """The fastest device here: "cuda" (NVIDIA; AMD's ROCm shows under the same name), "mps" (Apple), or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def choose_device(wanted: str | None) -> str:
    """`wanted` if it is there; the fastest one for None or "auto".

    Raises:
        UserError: this machine has no such device.
    """
    device = get_device() if wanted in (None, "auto") else str(wanted)
    kind = device.split(":")[0]
    is_there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in is_there:
        raise UsageError(f"device {device!r} is unknown: choose auto, cpu, cuda or mps")
    if not is_there[kind]:
        raise UserError(
            f"device {device} is not usable here: choose auto or cpu, or install a PyTorch that is built for it"
        )
    if device == "cuda" and "LOCAL_RANK" in os.environ:  # several processes: each loads onto its own GPU
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return device
