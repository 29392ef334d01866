"""Where events go: files of JSON lines always, TensorBoard and report.html by default, W&B and trackio on request.

Each reporter is a callable that takes an `Event`, like any callback of a user's.
"""

from __future__ import annotations

import importlib
import json
import math
import threading
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from auto_bot_tuner.training.config import TrainingConfig
from auto_bot_tuner.training.durable import write_whole
from auto_bot_tuner.training.events import Callback, Event
from auto_bot_tuner.utils.errors import UserError, one_line


def build_reporters(config: TrainingConfig, resumed_at: int) -> list[Callback]:
    """The reporters that the config asks for; logs after `resumed_at` have been cut already."""
    makers = {"tensorboard": tensorboard_reporter, "wandb": wandb_reporter, "trackio": wandb_reporter}
    folder = Path(config.output_dir)
    live = [name for name in config.report_to if name in makers]  # html is written once, at the end
    return [jsonl_reporter(folder)] + [makers[name](name, folder, resumed_at) for name in live]


def jsonl_reporter(folder: Path) -> Callback:
    """One JSON object per logged step and per evaluation; samples, notes and token views go to files of their own."""

    def report(event: Event) -> None:
        if event.name in ("log", "evaluate"):
            # An infinite gradient norm (fp16) or perplexity is no JSON.
            finite = {name: value if math.isfinite(value) else None for name, value in event.metrics.items()}
            append_line(folder / "metrics.jsonl", {"step": event.step, **finite})
        elif event.name == "samples":
            for sample in event.metrics["samples"]:
                append_line(folder / "samples.jsonl", {"step": event.step, **sample})
        elif event.name == "token_views":
            for view in event.metrics["views"]:
                append_line(folder / "token_views.jsonl", {"step": event.step, **view})
        elif event.name == "note":
            append_line(folder / "notes.jsonl", {"step": event.step, **event.metrics})

    return report


def write_report(folder: Path) -> str:
    """report.html of the run in this folder.

    Returns:
        what went wrong, in a line; empty where nothing did: a run is not worth less for a report that failed.
    """
    try:
        # Drawing takes a moment that only the end of a run pays.
        importlib.import_module("auto_bot_tuner.reports").write_run_report(folder)
    except Exception as error:
        return f"no report.html ({one_line(error)}): write it with python main.py report {folder}"
    return ""


def append_line(path: Path, record: dict[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): make room there, then --resume") from error


@cache
def hush_writing_thread() -> None:
    """TensorBoard writes in a thread, which prints a traceback where the disk is full; the next event raises the same
    error where the run says it in a line."""
    before = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__name__ == "_AsyncWriterThread"):
            before(failure)

    threading.excepthook = report


def tensorboard_reporter(_: str, folder: Path, resumed_at: int) -> Callback:
    """`tensorboard --logdir checkpoints` shows the curves."""
    from torch.utils.tensorboard import SummaryWriter  # 2 s of import that only a run pays

    hush_writing_thread()
    # purge_step hides what an interrupted run wrote after its last checkpoint.
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_at + 1 if resumed_at else None)

    def report(event: Event) -> None:
        if event.name in ("log", "evaluate"):
            for name, value in event.metrics.items():
                writer.add_scalar(
                    name.replace("eval_", "eval/", 1) if name.startswith("eval_") else f"train/{name}",
                    value,
                    event.step,
                )
        elif event.name == "samples":
            for i, sample in enumerate(event.metrics["samples"]):
                side = f"{sample['side']}: " if sample.get("side") else ""  # which of a pair it is
                writer.add_text(f"sample/{i}", f"**{sample['prompt']}**\n\n{side}{sample['response']}", event.step)
        if event.name in ("evaluate", "end"):
            writer.flush()

    return report


def wandb_reporter(name: str, folder: Path, resumed_at: int) -> Callback:
    """Weights & Biases, and trackio, which has the same three functions."""
    try:
        library: Any = importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"report_to names {name}, which is not installed: uv pip install {name}, or leave it out"
        ) from error
    settings = {"project": "auto_bot_tuner", "name": folder.name}
    if name == "wandb":  # a resumed run goes on in the same curve; W&B knows it by its id
        id_file = folder / "wandb_id"
        if not (resumed_at and id_file.exists()):
            write_whole(id_file, uuid.uuid4().hex)
        settings |= {"id": id_file.read_text(encoding="utf-8"), "resume": "allow"}
    library.init(**settings)

    def report(event: Event) -> None:
        if event.name in ("log", "evaluate"):
            library.log(event.metrics, step=event.step)
        elif event.name == "end":
            library.finish()

    return report
