"""SFT on real instructions, with a small model that people made: what the command line does to it.

    AUTO_BOT_TUNER_SHARED=folder python -m benchmarks.real_sft    writes results/real-sft.md; four minutes

In the folder lie data/alpaca (rows of yahma/alpaca-cleaned) and data/models/stories260k (260,000 parameters that wrote
children's stories and never saw an instruction). Both ways run by `main.py train-sft`, as a user would type it; then
`final/` is opened by transformers and peft alone.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.baton import REPOSITORY
from benchmarks.real_dpo import largest, logprobs, opened_plainly
from benchmarks.real_preferences import data_folder, machine

RESULTS = REPOSITORY / "benchmarks" / "results" / "real-sft.md"
SHARED_FLAGS = "--max-length 256 --batch-size 16 --grad-accum 1 --eval-max-samples 200 --num-samples 0"
WAYS = {"all weights": "--no-lora --learning-rate 2e-3", "LoRA": "--lora --learning-rate 5e-3"}


class Outcome(NamedTuple):
    flags: str
    trained: int
    before: float  # loss on held-out rows, nats per token
    after: float
    steps: int
    seconds: float  # of CPU time, loading and reading rows too
    apart: float  # largest |log-probability of a token by base + adapter - by the merged model|; 0 without an adapter


def train(flags: str, model: Path, rows: Path, folder: Path) -> Outcome:
    """One run by its command; what it left in its folder."""
    command = f"train-sft --model {model} --dataset {rows} {SHARED_FLAGS} {flags} --output-dir {folder}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    before = children_cpu_seconds()
    subprocess.run(
        [sys.executable, "main.py", *command.split()], cwd=REPOSITORY, env=environment, check=True, capture_output=True
    )
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    probes = [torch.randint(3, 500, (64,), generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    found = [logprobs(opened, probes) for opened in opened_plainly(folder / "final")]
    return Outcome(
        flags,
        record["model"]["trained_parameters"],
        losses[0],
        losses[-1],
        record["step"],
        children_cpu_seconds() - before,
        max(largest(found[0], other) for other in found),
    )


def children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def page(outcomes: dict[str, Outcome], rows: int) -> str:
    table = "\n".join(
        f"| {name}: `{o.flags}` | {o.trained:,} | {o.before:.3f} | {o.after:.3f} | {o.steps} | {o.seconds:.0f} |"
        for name, o in outcomes.items()
    )
    apart = outcomes["LoRA"].apart
    return f"""# SFT on real instructions

Made by `python -m benchmarks.real_sft`. {machine()}.

*stories260k* (Andrej Karpathy's, as a Hugging Face folder) on alpaca: {rows:,} rows, a part of them held out, of which
200 are measured; one epoch, by `main.py train-sft --model stories260k --dataset alpaca-5k.jsonl
{SHARED_FLAGS}` and the flags of each line.

| trained | weights | held-out loss before | after | steps | CPU seconds |
| --- | --- | --- | --- | --- | --- |
{table}

A model of that size learns the form of an answer, not its content. Both `final/` open in plain transformers; of the
LoRA run the log-probabilities of the merged model and of base + adapter in plain peft differ by {apart:.1e} at most.
"""


def main() -> None:
    data = data_folder()
    rows = data / "alpaca" / "alpaca-5k.jsonl"
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = {
            name: train(flags, data / "models" / "stories260k", rows, Path(scratch) / name.split()[0])
            for name, flags in WAYS.items()
        }
    with rows.open(encoding="utf-8") as lines:
        RESULTS.write_text(page(outcomes, sum(1 for _ in lines)), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
