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

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn

from auto_bot_tuner.evaluation.engine import context_limit, evaluation_mode
from auto_bot_tuner.rewards.named import as_reward
from auto_bot_tuner.rollouts.config import OnPolicyConfig
from auto_bot_tuner.rollouts.health import Health
from auto_bot_tuner.rollouts.minibatches import at_responses, collate, rows_of, units_of
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.statistics import rollout_metrics
from auto_bot_tuner.rollouts.writing import join, load_rollout, save_rollout, take, write
from auto_bot_tuner.training.batching import Batch, cut_by_tokens, epoch_order, share_between
from auto_bot_tuner.training.checks import check_ids, check_no_dropout
from auto_bot_tuner.training.events import Callback
from auto_bot_tuner.training.logprobs import causal_model
from auto_bot_tuner.training.loop import Trainer
from auto_bot_tuner.training.reference import WORDS, build_reference, choose_reference
from auto_bot_tuner.utils.errors import UsageError, UserError

EVALUATION = 0  # the number of the rollouts that evaluate, for their noise; those of training count from 1
GPU_TOKENS = 16384  # of one forward pass, where the settings do not say
RATIO_TOLERANCE = 1e-3  # mean |ratio - 1| before the first step; rounding of float32 is a hundredth of it


class OnPolicyTrainer(Trainer):
    """Writes rollouts and learns from them. A method says what they are worth (`judge`) and its loss."""

    config: OnPolicyConfig

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

    samples_per_prompt = 1

    def needs_reference(self, config: Any) -> bool:
        """Whether the settings compare with a reference at all."""
        raise NotImplementedError

    def judge(self, rollout: Rollout) -> None:
        """Steps 4 to 6: rewards, values where there are any, advantages."""
        raise NotImplementedError

    def policy_logprobs(self, batch: Batch) -> torch.Tensor:
        """(S, T): log-probability of each trained token by the training forward, without what else that computes."""
        raise NotImplementedError

    def foresee(self, rollout: Rollout, rows: Sequence[int], batch: Batch) -> None:
        """Step 5: values before the tokens of these responses, where the method has any; their batch is at hand."""

    def counts(self, rollout: Rollout) -> torch.Tensor:
        """(prompts,) bool: the prompts that stand in the loss; those without a trained token are left out."""
        return self.of_any_token(rollout, self.loss_mask(rollout))

    def teaches(self, rollout: Rollout) -> torch.Tensor:
        """(prompts,) bool: those whose responses have something to learn from. A step without any is skipped."""
        raise NotImplementedError

    def weight_of(self, mask: torch.Tensor) -> float:
        """What responses with this loss mask (S, R) weigh in their step."""
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
        metrics = rollout_metrics(rollout) | {
            f"{part}_tokens_per_second": tokens / max(taken, 1e-9) for part, taken in seconds.items()
        }
        self.latest = metrics
        for name, value in metrics.items():
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
        """Steps 1 to 3 in this process alone: no other is waited for, none waits."""
        started = time.perf_counter()
        with self.accelerator.autocast():
            rollout = write(self.model, dataset, prompts, samples, self.config, number)
        written = time.perf_counter()
        rollout.raw_scores, rollout.components = self.reward.score(rollout.attempts)
        rollout.scores = rollout.raw_scores
        with evaluation_mode(self.module):
            self.compare(rollout, number)
        return rollout, {"writing": written - started, "scoring": time.perf_counter() - written}

    def compare(self, rollout: Rollout, number: int) -> None:
        """Step 3, and what else forward passes say: fresh old log-probabilities where writing's will not do; values."""
        width = rollout.responses.shape[1]
        if self.reference is not None:
            rollout.reference_logprobs = torch.zeros(rollout.logprobs.shape)
        for rows in self.cut(rollout, range(len(rollout.rows) // rollout.samples), 1):
            batch = self.collate_rows(rollout, rows).to(self.accelerator.device)
            if self.reference is not None and rollout.reference_logprobs is not None:
                with self.accelerator.autocast():  # as the policy computes: the same model gives the same numbers
                    found = self.reference.logprobs(batch)
                rollout.reference_logprobs[rows] = at_responses(found, batch["labels"], width).cpu()
            if not self.keeps_sampling_logprobs:
                with self.accelerator.autocast():
                    fresh = self.policy_logprobs(batch)
                self.refresh_logprobs(fresh, rollout, rows, batch)
            if number != EVALUATION:  # nothing is learnt from those
                self.foresee(rollout, rows, batch)

    def refresh_logprobs(self, logprobs: torch.Tensor, rollout: Rollout, rows: Sequence[int], batch: Batch) -> None:
        """Old log-probabilities from a training forward, (S, T), instead of those of writing; the gap is logged."""
        found = at_responses(logprobs, batch["labels"], rollout.responses.shape[1]).cpu()
        gap = (found - rollout.logprobs[rows])[rollout.mask[rows]].abs().mean()
        self.window.setdefault("sampling_gap", []).append(float(gap))
        rollout.logprobs[rows] = found

    def usable_scores(self, rollout: Rollout) -> torch.Tensor:
        """(N,): the scores as the method uses them: clipped, less the penalty of not ending."""
        assert rollout.raw_scores is not None
        clip = self.config.reward_clip or math.inf
        return self.scaled(rollout.raw_scores).clamp(-clip, clip) - self.config.missing_eos_penalty * ~rollout.ended

    def scaled(self, scores: torch.Tensor) -> torch.Tensor:
        """(N,): raw scores in the unit that they are clipped and penalised in."""
        return scores

    def loss_mask(self, rollout: Rollout) -> torch.Tensor:
        """(N, R) bool: the tokens that are trained."""
        return rollout.mask & rollout.ended[:, None] if self.config.mask_unfinished else rollout.mask

    def of_any_token(self, rollout: Rollout, claim: torch.Tensor) -> torch.Tensor:
        """(N, R) bool -> (prompts,): whether it holds for a token of a response to the prompt."""
        return claim.view(len(rollout.rows) // rollout.samples, -1).any(dim=1)

    # ---- from a rollout to micro-batches ----

    def minibatch(self, rollout: Rollout, epoch: int, index: int) -> list[Batch]:
        """This process's micro-batches of one optimiser step, which takes whole prompts: all of their responses."""
        groups = len(rollout.rows) // rollout.samples
        rollout_number = self.state.step // self.steps_per_rollout
        order = epoch_order(groups, self.config.seed, rollout_number * self.config.epochs_per_rollout + epoch)
        counts, teaches = self.counts(rollout), self.teaches(rollout)
        chosen = [group for group in order[index :: self.config.minibatches] if counts[group]]
        if not teaches[chosen].any():  # asked of the whole step: every process comes to the same answer
            return []
        cuts = self.cut(rollout, chosen, self.processes)
        return [self.collate_rows(rollout, rows) for rows in cuts[self.rank :: self.processes]]

    def cut(self, rollout: Rollout, groups: Iterable[int], processes: int) -> list[list[int]]:
        """The responses of these prompts, cut by the token budget into a multiple of `processes` forward passes."""
        units, costs = units_of(rollout, groups, self.is_flat, self.token_budget)
        cuts = share_between(cut_by_tokens(range(len(units)), costs, self.token_budget), costs, processes)
        return [[row for unit in cut for row in units[unit]] for cut in cuts]

    def collate_rollout(self, rollout: Rollout, groups: Sequence[int]) -> Batch:
        """These prompts with all of their responses as one forward pass."""
        return self.collate_rows(rollout, rows_of(rollout, groups))

    def collate_rows(self, rollout: Rollout, rows: Sequence[int]) -> Batch:
        """These responses with their prompts as one forward pass, weighed by the method."""
        batch = collate(rollout, rows, self.loss_mask(rollout))
        batch.weight = self.weight_of(batch["mask"]) if rows else 0
        return batch

    def check_ratio(self, logprobs: torch.Tensor, batch: Batch) -> None:
        """Before the first step the policy is the one that wrote: every ratio is 1, but for rounding.

        Raises:
            UserError: it is not, so that every later ratio would be wrong too.
        """
        if self.has_moved or self.state.step > self.state.skipped or not batch.weight:
            return
        difference = (logprobs.detach() - batch["old_logprobs"])[batch["mask"]]
        gap = float(torch.expm1(difference).abs().mean())
        if self.is_exact and gap > RATIO_TOLERANCE:
            raise UserError(
                f"before the first step policy and old policy are the same, yet their ratio is off by {gap:.2g} on "
                "average: something random is on (dropout), or the model computes otherwise in writing than in training"
            )

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
        """There are prompts, their ids have embeddings, and they leave room for a response."""
        if len(self.train_dataset) == 0:
            raise UserError("there are no prompts: check --dataset, --split and --max-samples")
        prompts, minibatches = len(self.train_dataset), self.config.minibatches
        if prompts < minibatches:  # most steps would have no prompt at all
            raise UsageError(f"{prompts} prompts cannot be cut into {minibatches} minibatches: --minibatches {prompts}")
        check_ids(self.train_dataset, causal_model(self.model).get_input_embeddings().weight.shape[0])
        limit, new = context_limit(self.model), self.config.max_new_tokens
        longest = max(length for data in (self.train_dataset, self.eval_dataset) if data for length in data.lengths)
        if limit is not None and longest + new > limit:
            raise UserError(
                f"the model reads {limit} tokens, and the longest prompt has {longest}: no room for {new} more, so "
                f"responses would be cut before their time; --max-length {max(limit - new, limit // 2)}"
                + (f" --max-new-tokens {limit // 2}" if new > limit // 2 else "")
            )

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

    # ---- numbers that follow from the settings ----

    @property
    def prompts_per_rollout(self) -> int:
        return self.rows_per_step * self.config.minibatches

    @property
    def steps_per_rollout(self) -> int:
        return self.config.epochs_per_rollout * self.config.minibatches

    @property
    def rollouts_per_epoch(self) -> int:
        # The last, smaller rollout of an epoch is written too.
        return math.ceil(len(self.lengths) / self.prompts_per_rollout)

    @property
    def steps_per_epoch(self) -> int:
        return self.rollouts_per_epoch * self.steps_per_rollout

    @property
    def token_budget(self) -> int:
        if self.config.micro_batch_tokens:
            return self.config.micro_batch_tokens
        return 2048 if self.accelerator.device.type == "cpu" else GPU_TOKENS

    @property
    def is_exact(self) -> bool:
        """Whether writing and training compute the same numbers: float32 throughout."""
        in_float32 = all(p.dtype == torch.float32 for p in self.model.parameters())
        return self.accelerator.mixed_precision == "no" and in_float32

    @property
    def keeps_sampling_logprobs(self) -> bool:
        return self.config.old_logprobs == "sampling" or (self.config.old_logprobs == "auto" and self.is_exact)

    @property
    def is_flat(self) -> bool:
        """Whether rows travel without padding, and a prompt is computed once for all of its responses."""
        return bool(getattr(self.accelerator.unwrap_model(self.module), "is_flat", False))

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
        more = record["rollouts"]
        self.is_stopped, self.window = more["is_stopped"], more["window"]
        self.health.load_state_dict(more["health"])
