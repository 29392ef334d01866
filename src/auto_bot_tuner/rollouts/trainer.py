"""Learning from what the policy itself writes: what PPO and GRPO have in common.

The loop is inherited (`training/loop.py`; `sft/trainer.py` tells it in ten lines). Only where its batches come from is
new. A *rollout* is made in six steps, with the weights of that moment, and then used for a few optimiser steps:

    rollout = write(policy, prompts)                                        # 1 responses, log-probs    `writing.py`
    rollout.raw_scores, rollout.components = reward.score(rollout.attempts)   # 2 what each is worth     `rewards/`
    rollout.reference_logprobs = …                                          # 3 what the reference says of them
    self.judge(rollout)                                                     # 4-6 rewards, values, advantages
    for epoch in range(epochs_per_rollout):
        for minibatch in a fresh permutation of the prompts:                # one optimiser step each
            yield its micro-batches

A step's place in this is a function of its number, so a checkpoint needs the present rollout and nothing else to go on
with the same bits. With several processes each writes its share of the prompts; then the shares are joined, so that
every process cuts the same rollout in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn

from auto_bot_tuner.evaluation.engine import evaluation_mode
from auto_bot_tuner.rewards.named import as_reward
from auto_bot_tuner.rollouts.checks import check_prompts
from auto_bot_tuner.rollouts.config import OnPolicyConfig
from auto_bot_tuner.rollouts.health import Health
from auto_bot_tuner.rollouts.minibatches import rows_of
from auto_bot_tuner.rollouts.passes import EVALUATION, RolloutPasses
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.statistics import rollout_metrics
from auto_bot_tuner.rollouts.writing import join, load_rollout, save_rollout, take, write
from auto_bot_tuner.training.batching import Batch, epoch_order
from auto_bot_tuner.training.checks import check_no_dropout
from auto_bot_tuner.training.events import Callback
from auto_bot_tuner.training.reference import WORDS, build_reference, choose_reference
from auto_bot_tuner.utils.errors import UserError


class OnPolicyTrainer(RolloutPasses):
    """Writes rollouts and learns from them. A method says what they are worth (`judge`) and its loss."""

    def __init__(
        self,
        policy: nn.Module,
        reward: Any,
        reference_model: nn.Module | None,
        tokenizer: Any,
        prompt_dataset: Any,
        eval_dataset: Any,
        config: OnPolicyConfig,
        callbacks: Sequence[Callback] | None,
    ) -> None:
        """
        Args:
            policy: a causal language model, trained.
            reward: whatever `rewards.named.as_reward` takes: reward models, verifiers, functions, a weighted sum.
            reference_model: frozen; None takes the one that `config.reference` names.
            prompt_dataset, eval_dataset: `PromptDataset`s.

        Raises:
            UsageError: models and settings contradict each other.
        """
        self.reward = as_reward(reward, tokenizer)
        without = "" if self.needs_reference(config) else f"{config.METHOD} without a KL term"
        self.reference_kind = choose_reference(policy, reference_model, config.reference, without)
        super().__init__(policy, tokenizer, prompt_dataset, eval_dataset, config, callbacks)
        check_no_dropout(policy)
        self.reference = build_reference(self.reference_kind, policy, reference_model, config.temperature)
        self.rollout: Rollout | None = None
        self.is_stopped = False  # whether the rest of this rollout's steps is skipped
        self.window: dict[str, list[float]] = {}  # statistics of the rollouts since the last log
        self.latest: dict[str, float] = {}  # of the last rollout
        self.health = Health(config, config.METHOD)

    # ---- what a method says ----

    def needs_reference(self, config: Any) -> bool:
        """Whether the settings compare with a reference at all."""
        raise NotImplementedError

    def judge(self, rollout: Rollout) -> None:
        """Steps 4 to 6: rewards, values where there are any, advantages."""
        raise NotImplementedError

    # ---- a rollout ----

    def train(self) -> dict[str, Any]:
        """As the loop's; the summary holds the last rollout's figures also where the last log had no rollout."""
        summary = super().train()
        return self.latest | summary

    def batches(self) -> Iterator[list[Batch]]:
        """A rollout whenever the last one is used up, and its minibatches, one for each optimiser step."""
        while self.state.step < self.total_steps:
            number, use = divmod(self.state.step, self.steps_per_rollout)
            if use == 0 or self.rollout is None:
                self.rollout, self.is_stopped = self.make_rollout(number), False
            yield [] if self.is_stopped else self.minibatch(self.rollout, *divmod(use, self.config.minibatches))

    def make_rollout(self, number: int) -> Rollout:
        """Rollout `number`, counted from 0, and its statistics for the log."""
        epoch, place = divmod(number, self.rollouts_per_epoch)
        order = epoch_order(len(self.lengths), self.config.seed, epoch)
        prompts = order[place * self.prompts_per_rollout : (place + 1) * self.prompts_per_rollout]
        rollout, seconds = self.write_and_score(self.train_dataset, prompts, self.samples_per_prompt, 1 + number)
        started = time.perf_counter()
        self.judge(rollout)
        seconds["scoring"] += time.perf_counter() - started
        tokens = int(rollout.mask.sum())
        speeds = {f"{part}_tokens_per_second": tokens / max(taken, 1e-9) for part, taken in seconds.items()}
        self.latest = rollout_metrics(rollout) | speeds
        for name, value in self.latest.items():
            self.window.setdefault(name, []).append(value)
        return rollout

    @torch.no_grad()
    def write_and_score(
        self, dataset: Any, prompts: Sequence[int], samples: int, number: int
    ) -> tuple[Rollout, dict[str, float]]:
        """Steps 1 to 3 for these prompts, shared between the processes; and the seconds of writing and of scoring."""
        mine = list(prompts[self.rank :: self.processes]) or list(prompts[:1])  # every process has something to do
        rollout, seconds = self.write_and_score_here(dataset, mine, samples, number)
        if self.processes > 1:
            parts: list[Rollout] = gather_object([rollout])[: len(prompts)]
            places = [place for rank in range(len(parts)) for place in range(rank, len(prompts), self.processes)]
            order = sorted(range(len(places)), key=places.__getitem__)  # the prompts' own, as one process has them
            rollout = take(join(parts), rows_of(rollout, order))
        return rollout, seconds

    @torch.no_grad()
    def write_and_score_here(
        self, dataset: Any, prompts: Sequence[int], samples: int, number: int
    ) -> tuple[Rollout, dict[str, float]]:
        """Steps 1 to 3 in this process. None waits for another, but that sharded weights are first gathered by all."""
        started = time.perf_counter()
        with self.whole_weights():
            with self.accelerator.autocast():
                rollout = write(self.model, dataset, prompts, samples, self.config, number)
            written = time.perf_counter()
            rollout.raw_scores, rollout.components = self.reward.score(rollout.attempts)
            rollout.scores = rollout.raw_scores
            with evaluation_mode(self.module):
                self.compare(rollout, number)
        return rollout, {"writing": written - started, "scoring": time.perf_counter() - written}

    # ---- the loop's hooks ----

    def observe_rollouts(self) -> dict[str, float]:
        """The means of the rollouts' statistics since the last log; the window starts anew."""
        window, self.window = self.window, {}
        return {name: sum(values) / len(values) for name, values in window.items()}

    def describe(self, means: dict[str, float]) -> dict[str, float]:
        """The loss's metrics, and what the rollouts since the last log were like."""
        means = {name: value for name, value in means.items() if name != "num_tokens"}
        return {**means, **self.observe_rollouts(), "skipped_steps": float(self.state.skipped)}

    def verdicts(self, metrics: dict[str, float]) -> list[str]:
        """What the curves mean, where something is wrong with them."""
        return [verdict.text for verdict in self.health.note(metrics)]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """One sampled response to each evaluation prompt: `eval_reward`, `eval_kl`, lengths, each reward component.

        The noise is the same at every evaluation, so that what differs is the policy.

        Raises:
            UserError: there is no evaluation data.
        """
        if self.eval_dataset is None:
            raise UserError("there is no evaluation data: give the trainer an eval_dataset")
        window, self.window = self.window, {}  # that of training
        rollout, _ = self.write_and_score(self.eval_dataset, range(len(self.eval_dataset)), 1, EVALUATION)
        self.evaluated = rollout
        metrics = rollout_metrics(rollout) | self.observe_rollouts()
        self.window = window
        return {f"eval_{name}": value for name, value in metrics.items()}

    def objective(self, evaluation: dict[str, float]) -> float:
        """The best policy is the one with the highest reward."""
        return -evaluation["eval_reward"]

    def samples(self) -> list[dict[str, Any]]:
        """The first responses of the evaluation, with their scores; without one, answers to the fixed prompts."""
        if self.eval_dataset is None or self.config.sample_prompts:
            return super().samples()
        rollout, count = self.evaluated, self.config.num_samples
        assert rollout.raw_scores is not None
        return [
            {"prompt": a.prompt[-1]["content"], "response": a.response, "ended": a.ended, "score": round(score, 3)}
            for a, score in zip(rollout.attempts[:count], rollout.raw_scores.tolist(), strict=False)
        ]

    def check_data(self) -> None:
        """Before the run: the prompts can be read and answered."""
        check_prompts(self)

    def shape(self) -> dict[str, Any]:
        config = self.config
        return super().shape() | {
            "rollout": f"{self.prompts_per_rollout} prompts x {self.samples_per_prompt}, {config.epochs_per_rollout} "
            f"passes of {config.minibatches} steps, up to {config.max_new_tokens} tokens at temperature "
            f"{config.temperature:g}",
            "reward": f"{self.reward.name}, clip {config.reward_clip:g}, no end -{config.missing_eos_penalty:g}",
            "reference": self.reference_kind,
        }

    def facts(self) -> dict[str, str]:
        """The rollouts, the reward, and what the policy is held to."""
        config = self.config
        source = "writing" if self.keeps_sampling_logprobs else "a training forward"
        each = "" if self.samples_per_prompt == 1 else f" x {self.samples_per_prompt} responses"
        return {
            "rollout": f"{self.prompts_per_rollout} prompts{each}, up to {config.max_new_tokens} tokens, then "
            f"{self.steps_per_rollout} steps ({config.epochs_per_rollout} x {config.minibatches})",
            "reward": self.reward.name,
            "reference": WORDS[self.reference_kind],
            "ratios": f"old log-probabilities from {source}",
        }

    # ---- what a checkpoint holds ----

    def save_weights(self, folder: Path) -> None:
        """As the loop's, and the rollout where it is not used up."""
        super().save_weights(folder)
        if self.rollout is not None and self.state.step % self.steps_per_rollout:
            save_rollout(self.rollout, folder)

    def load_weights(self, folder: Path) -> None:
        super().load_weights(folder)
        self.rollout = load_rollout(folder, self.train_dataset)

    def extra_state(self) -> dict[str, Any]:
        more = {"is_stopped": self.is_stopped, "window": self.window, "health": self.health.state_dict()}
        return super().extra_state() | {"rollouts": more}

    def load_extra_state(self, record: dict[str, Any]) -> None:
        super().load_extra_state(record)
        self.is_stopped, self.window = (record["rollouts"][name] for name in ("is_stopped", "window"))
        self.health.load_state_dict(record["rollouts"]["health"])
