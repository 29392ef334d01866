"""Preparing rows, in one worker: our batched tokenising beside TRL's row-wise maps; a lap is one paired round.

Both turn alpaca rows into token ids and labels with GPT-2's tokenizer and the same chat template, one after the other
in alternating order, without any cache, with as many of the tokenizer's threads. The tokenizer alone is timed besides:
what both must do. The rows are those in the folder named by AUTO_BOT_TUNER_SHARED, else sentences of random words of
the same lengths.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from typing import Any

import trl
from datasets import Dataset, disable_caching, disable_progress_bars

from auto_bot_tuner.data.formats import canonical
from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.sft import InstructionDataset
from benchmarks.baton import Baton
from benchmarks.task import Task
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


def prepare_ours(rows: list[dict[str, str]], tokenizer: Any, baton: Baton) -> Tokens:
    """The rows as tokens (fetched outside of the measurement)."""
    with tempfile.TemporaryDirectory() as empty_cache:
        os.environ["AUTO_BOT_TUNER_CACHE"] = empty_cache
        with baton.part("ours"):
            dataset = InstructionDataset(rows, tokenizer, MAX_LENGTH)
    items = (dataset[i] for i in range(len(dataset)))
    return [(item["input_ids"].tolist(), item["labels"].tolist()) for item in items]


def prepare_trl(trainer: trl.SFTTrainer, rows: Dataset, tokenizer: Any, baton: Baton) -> Tokens:
    with baton.part("peer"):
        dataset = trainer._prepare_dataset(rows, tokenizer, trainer.args, False, None, "train")
    return list(zip(dataset["input_ids"], dataset["labels"], strict=True))


def trl_trainer(folder: str, tokenizer: Any) -> trl.SFTTrainer:
    """A trainer for its `_prepare_dataset` alone; it must be given a row to start with."""
    config = trl.SFTConfig(folder, use_cpu=True, bf16=False, max_length=MAX_LENGTH, report_to="none")
    row = {"prompt": [{"role": "user", "content": "?"}], "completion": [{"role": "assistant", "content": "!"}]}
    return trl.SFTTrainer(build_model(), config, train_dataset=Dataset.from_list([row]), processing_class=tokenizer)


def as_prompt_completion(row: dict[str, str]) -> dict[str, Any]:
    """The form in which TRL trains answers only: our messages, parted before the last."""
    messages = canonical(row, "alpaca", "row", "")[1]["messages"]
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def main() -> None:
    task = Task.from_argv()
    baton = Baton()
    disable_caching()
    disable_progress_bars()
    tokenizer: Any = gpt2_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    PromptFormat.from_tokenizer(tokenizer).install(tokenizer)  # TRL reads the template from the tokenizer
    rows = alpaca_rows(task.rows_per_step)
    peer_rows = Dataset.from_list([as_prompt_completion(row) for row in rows])
    texts = [row["instruction"] + row["input"] + row["output"] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(folder, tokenizer)
        baton.ready()
        ours_first = True
        while baton.wait():
            if ours_first:
                mine = prepare_ours(rows, tokenizer, baton)
            theirs = prepare_trl(trainer, peer_rows, tokenizer, baton)
            if not ours_first:
                mine = prepare_ours(rows, tokenizer, baton)
            ours_first = not ours_first
            with baton.part("encoding"):
                tokenizer(texts)
            baton.add_loss(float(sum(a != b for a, b in zip(mine, theirs, strict=True))))  # rows that differ
            baton.lap.part_tokens = dict.fromkeys(("ours", "peer"), len(rows))


if __name__ == "__main__":
    main()
