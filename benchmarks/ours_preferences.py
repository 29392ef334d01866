"""Our RewardModelTrainer and DPOTrainer as workers of `baton.py`: their own loop, paused between steps."""

from __future__ import annotations

import os
import tempfile

import torch

from auto_bot_tuner.data.response_groups import Group
from auto_bot_tuner.dpo import DPOConfig, DPOTrainer
from auto_bot_tuner.rlhf import RewardModel, RewardModelConfig, RewardModelTrainer
from benchmarks.baton import Baton
from benchmarks.ours import Paced, settings
from benchmarks.pairs import Pair, build_pairs, build_policy, build_scoring_model
from benchmarks.task import Task
from benchmarks.workload import IGNORED, build_tokenizer


class TokenPairs:
    """Pairs that are tokens already, in the form that the trainers ask of a data set."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs
        self.lengths = [sum(map(len, pair)) for pair in pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def group(self, row: int) -> Group:
        prompt, *responses = self.pairs[row]
        return Group(
            input_ids=[torch.tensor(prompt + response) for response in responses],
            labels=[torch.tensor([IGNORED] * len(prompt) + response) for response in responses],
            prompt_length=len(prompt),
            scores=[float("nan")] * 2,
        )


class PacedReward(Paced, RewardModelTrainer):
    pass


class PacedDPO(Paced, DPOTrainer):
    pass


def build_trainer(pairs: list[Pair], task: Task, folder: str) -> Paced:
    rows, tokenizer = TokenPairs(pairs), build_tokenizer()
    if task.method == "reward":
        config = RewardModelConfig(**settings(task, folder))
        return PacedReward(RewardModel(build_scoring_model(task)), tokenizer, rows, config=config)
    # Both sides compute the reference before the first step; ours would keep it for the next run, too.
    os.environ["AUTO_BOT_TUNER_CACHE"] = folder
    dpo_config = DPOConfig(reference=task.reference, **settings(task, folder))
    return PacedDPO(build_policy(task), None, tokenizer, rows, config=dpo_config)


def main() -> None:
    task = Task.from_argv()
    baton = Baton(task.device)
    pairs = build_pairs(task.rows, task.max_length)
    with tempfile.TemporaryDirectory() as folder:
        build_trainer(pairs, task, folder).run(baton)


if __name__ == "__main__":
    main()
