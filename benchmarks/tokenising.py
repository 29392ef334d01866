"""Preparing rows: our batched tokenising beside TRL's row-wise maps, to the same ids and labels.

    python -m benchmarks.tokenising [--rows 2000] [--rounds 5]

Both turn alpaca rows into token ids and labels with GPT-2's tokenizer and the same chat template, one after the other
in alternating order, without any cache. Rows that come out differently make the comparison void (exit code 1). The rows
are those in the folder named by AUTO_BOT_TUNER_SHARED, else sentences of random words of the same lengths.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import trl
from datasets import Dataset, disable_caching, disable_progress_bars
from rich.console import Console

from auto_bot_tuner.data.formats import canonical
from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.sft import InstructionDataset
from benchmarks.baton import Spread
from benchmarks.workload import build_model, shared_data
from tests.models import gpt2_tokenizer

# Longer than any row: what is too long TRL cuts at its end, and we first at the prompt's start.
MAX_LENGTH = 2048
Tokens = list[tuple[list[int], list[int]]]


def alpaca_rows(count: int) -> list[dict[str, str]]:
    shared = shared_data()
    generator = random.Random(0)
    if shared:
        lines = (shared / "alpaca" / "alpaca-5k.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in generator.sample(lines, min(count, len(lines)))]
    words = ["".join(generator.choices("abcdefghijklmnoprstuvw", k=generator.randint(2, 9))) for _ in range(4000)]

    def sentence(median: int) -> str:
        return " ".join(generator.choices(words, k=max(1, round(median * generator.lognormvariate(0, 0.7)))))

    return [{"instruction": sentence(11), "input": "", "output": sentence(25)} for _ in range(count)]


def prepare_ours(rows: list[dict[str, str]], tokenizer: Any) -> tuple[float, Tokens]:
    """CPU seconds, and the rows as tokens (fetched outside of the measurement)."""
    with tempfile.TemporaryDirectory() as empty_cache:
        os.environ["AUTO_BOT_TUNER_CACHE"] = empty_cache
        started = time.process_time()
        dataset = InstructionDataset(rows, tokenizer, MAX_LENGTH)
        seconds = time.process_time() - started
    items = (dataset[i] for i in range(len(dataset)))
    return seconds, [(item["input_ids"].tolist(), item["labels"].tolist()) for item in items]


def prepare_trl(trainer: trl.SFTTrainer, rows: Dataset, tokenizer: Any) -> tuple[float, Tokens]:
    started = time.process_time()
    dataset = trainer._prepare_dataset(rows, tokenizer, trainer.args, False, None, "train")
    seconds = time.process_time() - started
    return seconds, list(zip(dataset["input_ids"], dataset["labels"], strict=True))


def trl_trainer(folder: str, tokenizer: Any) -> trl.SFTTrainer:
    """A trainer for its `_prepare_dataset` alone; it must be given a row to start with."""
    config = trl.SFTConfig(folder, use_cpu=True, bf16=False, max_length=MAX_LENGTH, report_to="none")
    row = {"prompt": [{"role": "user", "content": "?"}], "completion": [{"role": "assistant", "content": "!"}]}
    return trl.SFTTrainer(build_model(), config, train_dataset=Dataset.from_list([row]), processing_class=tokenizer)


def as_prompt_completion(row: dict[str, str]) -> dict[str, Any]:
    """The form in which TRL trains answers only: our messages, parted before the last."""
    messages = canonical(row, "alpaca", "row", "")[1]["messages"]
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    # Each side may use the tokenizer's threads as it likes; CPU time counts them all.
    disable_caching()
    disable_progress_bars()
    tokenizer: Any = gpt2_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    PromptFormat.from_tokenizer(tokenizer).install(tokenizer)  # TRL reads the template from the tokenizer
    rows = alpaca_rows(arguments.rows)
    peer_rows = Dataset.from_list([as_prompt_completion(row) for row in rows])

    ours: list[float] = []
    peers: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(folder, tokenizer)

        def run_ours() -> Tokens:
            seconds, tokens = prepare_ours(rows, tokenizer)
            ours.append(seconds)
            return tokens

        def run_peer() -> Tokens:
            seconds, tokens = prepare_trl(trainer, peer_rows, tokenizer)
            peers.append(seconds)
            return tokens

        sides: list[Callable[[], Tokens]] = [run_ours, run_peer]
        for round_number in range(arguments.rounds):
            first, second = (side() for side in (sides if round_number % 2 == 0 else sides[::-1]))
    different = sum(mine != peer for mine, peer in zip(first, second, strict=True))
    ratio = Spread.of([peer / mine for mine, peer in zip(ours, peers, strict=True)])
    rate, peer_rate = (Spread.of([len(rows) / s for s in seconds]).median for seconds in (ours, peers))
    Console().print(
        f"{len(rows)} rows: ours {rate:.0f} rows/s, TRL {peer_rate:.0f} rows/s, "
        f"speed ÷ TRL {ratio} in CPU time; {different} rows differ"
    )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
