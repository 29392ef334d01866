"""Runs what documents command, one after the other in one warmed process: `python -m tests.word_worker JOBS`.

The current folder is the one that the documents assume (`word_runs.Workshop`); JOBS is a JSON file. One JSON line for
each job: its exit code and what it printed. A process of its own, as huggingface_hub reads HF_ENDPOINT when imported.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from functools import partialmethod
from pathlib import Path
from typing import Any

SHORT = {"max_steps": 2, "gradient_accumulation_steps": 1, "num_samples": 0}


def run(job: dict[str, Any], names: dict[str, dict[str, Any]]) -> int:
    """The exit code of a job: a command of main.py, a snippet among the names of its document, or a folder's copies."""
    os.environ.update(job.get("environment", {}))
    if job["kind"] == "copy":
        for name in job["names"]:
            shutil.copytree(job["text"], name, dirs_exist_ok=True)
        return 0
    if job["kind"] == "python":
        exec(compile(job["text"], job["document"], "exec"), names.setdefault(job["document"], {}))
        return 0
    import main

    if feeder := job.get("feeder"):  # what stands before the pipe
        sys.stdin = io.StringIO(subprocess.run(feeder, shell=True, capture_output=True, text=True, check=True).stdout)
    return main.main(job["words"])


def answer(job: dict[str, Any], names: dict[str, dict[str, Any]]) -> dict[str, Any]:
    start, code = time.process_time(), 1
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            code = run(job, names)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
    if into := job.get("into"):
        Path(into).expanduser().write_text(out.getvalue())
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "cpu_seconds": time.process_time() - start}


def shorten_snippets() -> None:
    """Trainings of snippets stop after two steps, whatever their configs say."""
    from auto_bot_tuner.dpo import DPOConfig
    from auto_bot_tuner.grpo import GRPOConfig
    from auto_bot_tuner.rlhf import PPOConfig, RewardModelConfig
    from auto_bot_tuner.sft import SFTConfig

    for config in (SFTConfig, DPOConfig, RewardModelConfig, PPOConfig, GRPOConfig):
        rollouts = {"max_new_tokens": 8} if config in (PPOConfig, GRPOConfig) else {}

        config.__init__ = partialmethod(begin, config.__init__, {**SHORT, **rollouts, "overwrite": True})


def begin(self: Any, own: Any, short: dict[str, Any], /, *given: Any, **settings: Any) -> None:
    """A config's `__init__`, with what makes its run short."""
    own(self, *given, **{**settings, **short})


def work(path: str) -> None:
    import torch

    import main  # noqa: F401
    import src  # noqa: F401 - the doorway

    torch.set_num_threads(1)
    jobs = json.loads(Path(path).read_text())
    names: dict[str, dict[str, Any]] = {}
    is_shortened = False
    for job in jobs:
        if job["kind"] == "python" and not is_shortened:
            shorten_snippets()
            is_shortened = True
        print(json.dumps(answer(job, names)), flush=True)


if __name__ == "__main__":
    work(sys.argv[1])
