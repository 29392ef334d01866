"""Our GRPOTrainer and PPOTrainer as workers of `baton.py`: their own loop, paused between rollouts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from auto_bot_tuner.grpo import GRPOConfig, GRPOTrainer
from auto_bot_tuner.rewards.source import Attempt
from auto_bot_tuner.rlhf import RewardModel
from auto_bot_tuner.rlhf.config import PPOConfig
from auto_bot_tuner.rlhf.ppo_trainer import PPOTrainer
from auto_bot_tuner.rlhf.scoring import score_rows
from auto_bot_tuner.rlhf.shared_backbone import bytes_of, share_backbone
from auto_bot_tuner.rlhf.value_network import create_value_network_from_policy
from auto_bot_tuner.rollouts import trainer as rollouts_trainer
from auto_bot_tuner.rollouts.minibatches import SEQUENCES
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.trainer import OnPolicyTrainer
from auto_bot_tuner.rollouts.writing import rollout_of, write
from auto_bot_tuner.training.batching import epoch_order
from auto_bot_tuner.training.events import Event
from auto_bot_tuner.training.logprobs import causal_model
from benchmarks.baton import Baton
from benchmarks.device import reset_peak_memory
from benchmarks.ours import settings
from benchmarks.pairs import build_scoring_model, lora_config
from benchmarks.prompts import STOP_IDS, build_prompts, flops_of, replayed_responses, score, useful_tokens
from benchmarks.task import Task
from benchmarks.workload import build_model, build_tokenizer


class TokenPrompts:
    """Prompts that are tokens already, in the form that the trainers ask of a data set."""

    stop_token_ids = STOP_IDS

    def __init__(self, prompts: Sequence[list[int]], tokenizer: Any, seed: int) -> None:
        # Laid so that the trainer's shuffled order meets them as they were given: TRL's side does not shuffle.
        self.ids: list[list[int]] = [[]] * len(prompts)
        for place, prompt in zip(epoch_order(len(prompts), seed, 0), prompts, strict=True):
            self.ids[place] = prompt
        self.lengths = [len(prompt) for prompt in self.ids]
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor(self.ids[index])}

    def conversation(self, index: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"prompt {index}"}]

    def row(self, index: int) -> Mapping[str, Any]:
        return {}

    def prompts(self, count: int) -> list[Any]:
        """No samples are written beside the training."""
        return []


class Paced(OnPolicyTrainer):
    """Makes a rollout when the conductor wants one; says how long its parts took and what they asked for."""

    task: Task
    baton: Baton

    def make_rollout(self, number: int) -> Rollout:
        if not self.baton.wait():
            raise SystemExit(0)  # the conductor is done; what a trainer does at the end is not measured
        with self.baton.part("rollout"):
            rollout = super().make_rollout(number)
        prompts = [attempt.prompt_ids for attempt in rollout.attempts[:: rollout.samples]]
        responses = [attempt.response_ids for attempt in rollout.attempts]
        self.baton.count_work(useful_tokens(prompts, responses), flops_of(prompts, responses, self.task))
        return rollout

    def run(self, task: Task, baton: Baton, models: Sequence[torch.nn.Module], empty_mb: float) -> None:
        """Train when and as long as the conductor wants it."""
        self.task, self.baton = task, baton
        self.callbacks.append(self.note_loss)
        baton.watch(causal_model(self.model).get_input_embeddings())
        rollouts_trainer.write = self.write  # where the trainer looks for it
        megabytes = [bytes_of(*those) / 2**20 for those in (models, models[:1])]
        baton.ready(empty_mb=empty_mb, models_mb=megabytes[0], policy_mb=megabytes[1])
        self.train()

    def write(self, policy: Any, dataset: TokenPrompts, rows: Sequence[int], samples: int, *settings: Any) -> Rollout:
        """Step 1 of a rollout, timed; in replayed steps given responses take its place."""
        number = settings[-1]
        if number <= self.task.replayed_steps:
            return self.replay(dataset, rows, samples, number - 1)
        with self.baton.part("writing"):
            return write(policy, dataset, rows, samples, *settings)

    def replay(self, dataset: TokenPrompts, rows: Sequence[int], samples: int, step: int) -> Rollout:
        ids = replayed_responses(self.task, step)
        ended = [response[-1] in STOP_IDS for response in ids]
        unknown = [[0.0] * len(response) for response in ids]
        rollout = rollout_of(dataset, rows, samples, ids, ended, unknown)
        batch = self.collate_rollout(rollout, range(len(rows))).to(self.accelerator.device)
        logprobs = self.module(*(batch[name] for name in SEQUENCES))[0]
        self.refresh_logprobs(logprobs, rollout, range(len(ids)), batch)
        return rollout

    def note_loss(self, event: Event) -> None:
        if event.name == "log" and self.task.method == "grpo":
            self.baton.add_loss(event.metrics["loss"])
            self.baton.add_loss(event.metrics["grad_norm"])


class PacedGRPO(Paced, GRPOTrainer):
    pass


class PacedPPO(Paced, PPOTrainer):
    pass


class IdScores:
    """A reward model on the ids as they are: these prompts have no text."""

    name = "reward_model"

    def __init__(self, reward_model: RewardModel) -> None:
        self.reward_model = reward_model

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        rows = [attempt.prompt_ids + attempt.response_ids for attempt in attempts]
        return score_rows(self.reward_model, rows, 16)


class ShareOfEvenIds:
    name = "even"

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        return [score(attempt.response_ids) for attempt in attempts]


def build_policy(task: Task) -> Any:
    model = build_model(task)
    model.generation_config.eos_token_id = STOP_IDS
    return get_peft_model(model, lora_config()) if task.lora else model


def build_reward_model(task: Task, policy: Any) -> RewardModel:
    """A network of its own; with LoRA one that was trained as an adapter on the policy's base."""
    scoring = build_scoring_model(task)
    scoring.model.load_state_dict(build_model(task).model.state_dict())
    model: Any = scoring
    if task.lora:
        model = get_peft_model(scoring, for_scores(lora_config()))
    reward_model = RewardModel(model)
    reward_model.requires_grad_(False).eval()
    share_backbone(policy, reward_model)
    return reward_model


def for_scores(config: LoraConfig) -> LoraConfig:
    config.task_type = "SEQ_CLS"
    return config


def build_trainer(task: Task, folder: str) -> tuple[Paced, list[torch.nn.Module]]:
    tokenizer, seed = build_tokenizer(), 0
    prompts = TokenPrompts(build_prompts(task.rows, task.max_length), tokenizer, seed)
    common = settings(task, folder) | {
        "seed": seed,
        "max_steps": task.epochs_per_rollout * task.minibatches * task.steps,
        "minibatches": task.minibatches,
        "epochs_per_rollout": task.epochs_per_rollout,
        "max_new_tokens": task.max_new_tokens,
    }
    policy = build_policy(task)
    if task.method == "grpo":
        # TRL's own defaults; ours would clip later above.
        config = GRPOConfig(loss="dapo", clip_ratio_high=0.2, group_size=task.group_size, **common)
        return PacedGRPO(policy, ShareOfEvenIds(), tokenizer, prompts, config=config), [policy]
    reward_model = build_reward_model(task, policy)
    value_network = create_value_network_from_policy(policy)
    reward = IdScores(reward_model)
    trainer = PacedPPO(policy, value_network, reward, None, tokenizer, prompts, config=PPOConfig(**common))
    models = [policy, value_network, reward_model]
    if trainer.reference is not None and trainer.reference_kind == "copy":
        models.append(trainer.reference.module)
    return trainer, models


def main() -> None:
    task = Task.from_argv()
    baton = Baton(task.device)
    empty_mb = reset_peak_memory(task.device)  # libraries, and no model
    with tempfile.TemporaryDirectory() as folder:
        trainer, models = build_trainer(task, folder)
        trainer.run(task, baton, models, empty_mb)


if __name__ == "__main__":
    main()
