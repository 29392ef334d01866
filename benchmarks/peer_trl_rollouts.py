"""TRL's GRPOTrainer as a worker of `baton.py`: its own loop, generation and loss, paused between steps."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from datasets import Dataset
from transformers import TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from benchmarks.baton import Baton
from benchmarks.peer_trl import PassTheBaton, trl_settings
from benchmarks.prompts import STOP_IDS, build_prompts, flops_of, replayed_responses, score, useful_tokens
from benchmarks.task import Task
from benchmarks.workload import build_model, build_tokenizer

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"


class NoteGradients(PassTheBaton):
    """The loss of an on-policy step says little; the norm of its gradient says more."""

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.baton.add_loss(logs["loss"])
            self.baton.add_loss(logs["grad_norm"])


class Trainer(GRPOTrainer):
    """Replays the first steps' given responses; says how long writing took."""

    baton: Baton
    task: Task
    steps_made = 0

    def _generate(self, prompts: list[str]) -> Any:
        replays = self.steps_made < self.task.replayed_steps
        self.rollout_func = self.replay if replays else None  # TRL's own door for responses from elsewhere
        return super()._generate(prompts)

    def _generate_single_turn(self, *arguments: Any, **settings: Any) -> Any:
        with self.baton.part("writing"):
            return super()._generate_single_turn(*arguments, **settings)

    def replay(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids = self.processing_class(text=prompts)["input_ids"]
        responses = replayed_responses(self.task, self.steps_made)
        return {"prompt_ids": ids, "completion_ids": responses, "logprobs": None}

    def reward(self, prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """The reward function, which sees all that was written."""
        ids = self.processing_class(text=prompts[:: self.task.group_size])["input_ids"]
        self.steps_made += 1
        self.baton.count_work(useful_tokens(ids, completion_ids), flops_of(ids, completion_ids, self.task))
        return [score(response) for response in completion_ids]


def main() -> None:
    task = Task.from_argv()
    baton = Baton(task.device)
    model = build_model(task)
    model.generation_config.eos_token_id = STOP_IDS
    texts = ["".join(f"t{token} " for token in prompt) for prompt in build_prompts(task.rows, task.max_length)]
    with tempfile.TemporaryDirectory() as folder:
        settings = trl_settings(task, folder)
        responses = task.rows_per_step * task.group_size
        micro_batch = task.micro_batch or responses
        del settings["max_length"], settings["train_sampling_strategy"]
        settings |= {
            "per_device_train_batch_size": micro_batch,
            "gradient_accumulation_steps": responses // micro_batch,
            "num_generations": task.group_size,
            "max_completion_length": task.max_new_tokens,
            "shuffle_dataset": False,
        }

        def reward(**given: Any) -> list[float]:
            return trainer.reward(**given)

        trainer = Trainer(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(**settings),
            train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
            processing_class=build_tokenizer(),
            callbacks=[NoteGradients(baton)],
        )
        trainer.baton, trainer.task = baton, task
        baton.watch(trainer.model.get_input_embeddings())
        baton.ready()
        trainer.train()


if __name__ == "__main__":
    main()
