"""TRL's RewardTrainer and DPOTrainer as workers of `baton.py`: their own loop and loss, paused between steps."""

from __future__ import annotations

import tempfile
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

from benchmarks.baton import Baton
from benchmarks.pairs import Pair, build_pairs, build_scoring_model, lora_config
from benchmarks.peer_trl import PassTheBaton, order_rows, run, trl_settings
from benchmarks.task import Task
from benchmarks.workload import EOS_ID, build_model, build_tokenizer


def reward_trainer(pairs: list[Pair], task: Task, baton: Baton, folder: str) -> RewardTrainer:
    """On rows of ids: what it would make of text by itself."""
    rows = [{"chosen_ids": pair.prompt + pair.chosen, "rejected_ids": pair.prompt + pair.rejected} for pair in pairs]
    return RewardTrainer(
        model=build_scoring_model(task),
        args=RewardConfig(**trl_settings(task, folder)),
        train_dataset=Dataset.from_list(rows),
        processing_class=build_tokenizer(),
        callbacks=[PassTheBaton(baton)],
    )


def dpo_trainer(pairs: list[Pair], task: Task, baton: Baton, folder: str) -> DPOTrainer:
    """It insists on text, and adds the end token itself."""
    rows = [
        {"prompt": text_of(pair.prompt), "chosen": text_of(pair.chosen[:-1]), "rejected": text_of(pair.rejected[:-1])}
        for pair in pairs
    ]
    return DPOTrainer(
        model=build_model(task),
        ref_model=build_model(task) if task.reference == "copy" else None,
        args=DPOConfig(precompute_ref_log_probs=task.reference == "precomputed", **trl_settings(task, folder)),
        train_dataset=Dataset.from_list(rows),
        processing_class=build_tokenizer(),
        peft_config=lora_config() if task.reference == "adapter_off" else None,
        callbacks=[PassTheBaton(baton)],
    )


def text_of(ids: list[int]) -> str:
    """Words that the tokenizer turns into these ids again, with a space behind each."""
    return "".join(f"t{token} " for token in ids)


def check_tokens(trainer: DPOTrainer, pairs: list[Pair]) -> None:
    """Both sides must train on the same tokens: text went in, ids must have come out."""
    for pair, row in zip(pairs, trainer.train_dataset, strict=True):
        assert Pair(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) == pair, row
        assert row["chosen_ids"][-1] == EOS_ID


def main() -> None:
    task = Task.from_argv()
    baton = Baton(task.device)
    pairs = build_pairs(task.rows, task.max_length)
    order = order_rows([pair.longest for pair in pairs], task)
    pairs = [pairs[i] for i in order]
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any
        if task.method == "dpo":
            trainer = dpo_trainer(pairs, task, baton, folder)
            check_tokens(trainer, pairs)
        else:
            trainer = reward_trainer(pairs, task, baton, folder)
        size = task.rows_per_step
        run(trainer, baton, [order[start : start + size] for start in range(0, len(order) - size + 1, size)])


if __name__ == "__main__":
    main()
