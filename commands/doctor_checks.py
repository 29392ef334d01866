"""The checks of `doctor`: each looks at one thing and says what it found, and where that is a problem, the cure."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from auto_bot_tuner.utils.errors import one_line
from auto_bot_tuner.utils.machine import GIB

OLDEST_PYTHON = (3, 11)
PATIENCE = 3.0  # seconds for the hub to answer, and for the cache to be counted
LITTLE_ROOM = 5 * GIB  # on a disk: a run of a small model with two checkpoints
TORCH_CURE = "install it again: make clean && make install (AMD: make install-rocm)"
EXTRAS = {
    "quantization": "QLoRA: --load-in-4bit",
    "deepspeed": "accelerate launch --config_file configs/launch/deepspeed_zero2.yaml",
    "lm-eval": "evaluate benchmark",
    "gguf": "convert export --format gguf",
    "wandb": "--report-to wandb",
    "trackio": "--report-to trackio",
}


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    state: Literal["fine", "note", "wrong", "fatal"]  # fatal: no training at all
    text: str
    cure: str = ""


def python() -> Check:
    version, where = ".".join(map(str, sys.version_info[:3])), sys.prefix
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check("Python", "fatal", version, "Python 3.11 or newer is needed: make PYTHON=/path/to/python install")
    return Check("Python", "fine", f"{version}, {where}")


def pytorch() -> tuple[Check, Any]:
    """The check, and the module; None where it cannot be imported."""
    try:
        import torch
    except Exception as error:
        # A broken library under it is an OSError or an ImportError, a half-installed one anything.
        return Check("PyTorch", "fatal", f"cannot be imported: {one_line(error)}", TORCH_CURE), None
    from auto_bot_tuner.utils.machine import build

    return Check("PyTorch", "fine", f"{torch.__version__}, built for {build(torch)}"), torch


def device(torch: Any) -> Iterator[Check]:
    from auto_bot_tuner.utils.machine import devices

    found = devices(torch)
    for one in found:
        size = f"{one.total / GIB:.1f} GiB memory, {one.free / GIB:.1f} free" if one.total else "memory unknown"
        yield Check(one.kind, "fine", f"{one.name}, {size}")
    has_nvidia = shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()
    if found[0].kind == "cpu" and has_nvidia:
        cure = f"this PyTorch does not see it; check nvidia-smi, then {TORCH_CURE}"
        yield Check("GPU", "wrong", "there is an NVIDIA driver, and PyTorch uses none", cure)
    elif found[0].kind == "cpu" and Path("/dev/kfd").exists():
        yield Check("GPU", "wrong", "there is an AMD driver, and PyTorch uses none", "make clean && make install-rocm")


def precision(torch: Any, kind: str) -> Check:
    from auto_bot_tuner.utils.machine import try_precision

    took = {name: try_precision(torch, kind, name) for name in ("fp32", "bf16", "fp16")}
    if took["fp32"] is None:
        return Check("precision", "fatal", f"not even fp32 works on {kind}", "try --device cpu, or update the driver")
    tried = ", ".join(f"{name} {'no' if ms is None else f'yes ({ms:.1f} ms)'}" for name, ms in took.items())
    note = "" if kind != "cpu" else "; on a CPU fp32 is what trains well"
    return Check("precision", "fine", f"tried on {kind}: {tried}{note}")


def processor(torch: Any) -> Check:
    from auto_bot_tuner.utils.machine import cores

    usable, everywhere = cores()
    threads = torch.get_num_threads()
    text = f"{usable:g} of {everywhere} usable; PyTorch's threads: {threads}"
    whole = max(1, int(usable))
    if threads > whole:
        return Check("cores", "wrong", text, f"threads without a core wait for each other: set OMP_NUM_THREADS={whole}")
    if threads < whole and "OMP_NUM_THREADS" in os.environ:  # left to itself PyTorch knows why it takes fewer
        return Check("cores", "note", text, "OMP_NUM_THREADS holds it back: unset it to use all")
    return Check("cores", "fine", text)


def room(label: str, folder: Path, cure: str) -> Check:
    from auto_bot_tuner.utils.machine import disk
    from auto_bot_tuner.utils.paths import short
    from auto_bot_tuner.utils.sizes import readable_size

    there, free, may_write = disk(folder)
    text = f"{readable_size(free)} free at {short(there)}"
    if not may_write:
        return Check(label, "wrong", f"{short(there)} cannot be written to", cure)
    if free < LITTLE_ROOM:
        return Check(label, "wrong", text, f"little for checkpoints and downloads: free some, or {cure}")
    return Check(label, "fine", text)


def cache() -> Check:
    from auto_bot_tuner.hub.cache import cached, hub_folder
    from auto_bot_tuner.utils.paths import short
    from auto_bot_tuner.utils.sizes import readable_size

    models, data = cached("model"), cached("dataset")
    total = readable_size(sum(entry.size_bytes for entry in [*models, *data]))
    what = f"models: {len(models)}, data sets: {len(data)}, {total}"
    return Check("hub cache", "fine", f"{what} in {short(hub_folder())}")


def token() -> Check:
    from huggingface_hub import get_token

    if get_token():
        return Check("hub token", "fine", "there is one (it is not shown, and not checked here)")
    return Check("hub token", "note", "none: public models need none; gated ones and push do", "hf auth login")


def hub() -> Check:
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import httpx

    if constants.HF_HUB_OFFLINE:
        return Check("hub", "note", "not asked: HF_HUB_OFFLINE is set", "unset it to download")
    began = time.monotonic()
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except (httpx.HTTPError, OSError, ValueError) as error:
        cure = "check network and proxy (HTTPS_PROXY); without it: --model tiny, local files, what is in the cache"
        return Check("hub", "note", f"{constants.ENDPOINT} does not answer ({one_line(error)})", cure)
    return Check("hub", "fine", f"{constants.ENDPOINT} answers in {time.monotonic() - began:.2f} s")


def packages() -> Iterator[Check]:
    from auto_bot_tuner.utils.checkup import libraries

    found = [library for library in libraries() if not library.extra]
    bad = [library for library in found if library.is_missing or library.is_too_old]
    for library in bad:
        what = "is not installed" if library.is_missing else f"{library.version} is too old"
        yield Check(library.name, "fatal", f"{what}, wanted is {library.wanted}", "make install")
    if not found:
        yield Check("libraries", "wrong", "auto_bot_tuner itself is not installed here", "make install")
    elif not bad:
        main = ("transformers", "peft", "datasets", "accelerate", "huggingface-hub")
        shown = ", ".join(f"{library.name} {library.version}" for library in found if library.name in main)
        yield Check("libraries", "fine", f"all {len(found)} are there and new enough: {shown}")


def extras() -> Iterator[Check]:
    from auto_bot_tuner.utils.checkup import libraries

    for library in libraries():
        use = EXTRAS.get(library.extra)
        if use is None:
            continue
        if library.is_missing or library.is_too_old:
            what = "not installed" if library.is_missing else f"{library.version} is too old ({library.wanted})"
            cure = f'uv pip install "{library.name}{library.wanted}"'
            yield Check(library.name, "note", f"{what}; it would give {use}", cure)
        else:
            yield Check(library.name, "fine", f"{library.version}: {use}")


def terminal() -> Check:
    size = shutil.get_terminal_size()
    is_terminal = sys.stdout.isatty()
    colour = "no colour (NO_COLOR)" if os.environ.get("NO_COLOR") else "colour" if is_terminal else "no colour"
    text = f"{size.columns}×{size.lines}, {colour}, {sys.stdout.encoding}" if is_terminal else f"none ({colour})"
    if is_terminal and (size.columns < 80 or size.lines < 24):
        return Check("terminal", "note", text, "the menu and the tables are made for 80×24 and more")
    return Check("terminal", "fine", text)


def patiently(work: Callable[[], Check], name: str) -> Callable[[], Check]:
    """Start `work` at the side; the result when it is asked for, or after `PATIENCE` a line that it takes too long."""
    from concurrent.futures import Future
    from threading import Thread

    future: Future[Check] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # a probe that breaks is a line of the report, not the end of it
            future.set_result(Check(name, "note", f"could not be looked at: {one_line(error)}"))

    Thread(target=do, daemon=True).start()

    def result() -> Check:
        try:
            return future.result(timeout=PATIENCE)
        except TimeoutError:
            return Check(name, "note", f"no answer within {PATIENCE:.0f} s")

    return result
