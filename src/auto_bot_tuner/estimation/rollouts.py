"""The dry run of methods that learn from what the policy writes: a few responses are written, scored, learnt from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from auto_bot_tuner.estimation.probe import adam_seconds, backward, seconds_of
from auto_bot_tuner.estimation.time import Duration, evaluations_of
from auto_bot_tuner.evaluation.engine import evaluation_mode
from auto_bot_tuner.evaluation.kv_cache import SPARE_COLUMNS, new_cache
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.trainer import OnPolicyTrainer
from auto_bot_tuner.training.batching import Batch, epoch_order
from auto_bot_tuner.training.logprobs import output_head
from auto_bot_tuner.utils.lora import adaptable_layers

FEW, MORE = 2, 16  # prompts that are answered: a few to see how long it takes, then more where that is short
SHORT = 3.0  # seconds
LOGITS_COPIES = 4  # float32 (rows, V) of one token's choice: logits, log-softmax, its exponent, their sums
PREFILL_COPIES = 3  # of the widest layer's output


@dataclass(frozen=True)
class Written:
    """A few responses of the policy, and what they took: a batch of them takes `fixed` and so much for each."""

    rollout: Rollout
    fixed: float  # seconds of a batch, however few responses it holds: a forward pass for each token
    writing: float  # seconds a response beside that
    scoring: float  # seconds a response

    def seconds(self, responses: int, batches: int) -> float:
        return batches * self.fixed + responses * (self.writing + self.scoring)


def write_some(trainer: OnPolicyTrainer) -> Written:
    """Responses to two prompts, and where that was quick to some more; judged."""
    order = epoch_order(len(trainer.lengths), trainer.config.seed, 0)
    samples, data = trainer.samples_per_prompt, trainer.train_dataset
    few = min(FEW, len(order))
    rollout, seconds = trainer.write_and_score(data, order[:few], samples, 1)
    count, slope, fixed = few, seconds["writing"] / few, 0.0
    if len(order) > few and sum(seconds.values()) < SHORT:
        first, count = seconds["writing"], min(MORE, len(order))
        rollout, seconds = trainer.write_and_score(data, order[:count], samples, 1)
        slope = max(0.0, (seconds["writing"] - first) / (count - few))
        fixed = max(0.0, seconds["writing"] - count * slope)
    scoring = seconds["scoring"] + seconds_of(lambda: trainer.judge(rollout), trainer.accelerator.device)
    return Written(rollout, fixed, slope / samples, scoring / count / samples)


def batches_of(trainer: OnPolicyTrainer, rollout: Rollout) -> list[Batch]:
    """All of a rollout as the micro-batches of one step, those that teach nothing included: they cost the same."""
    groups = range(len(rollout.rows) // rollout.samples)
    batches = [trainer.collate_rows(rollout, rows) for rows in trainer.cut(rollout, groups, 1)]
    if getattr(trainer, "sft_dataset", None) is not None:
        trainer.add_imitation(batches)  # type: ignore[attr-defined]
    return batches


def largest(trainer: OnPolicyTrainer) -> tuple[int, int]:
    """(tokens of the largest micro-batch that responses of full length would make, of the smallest possible one)."""
    prompt, new, samples = max(trainer.lengths), trainer.config.max_new_tokens, trainer.samples_per_prompt
    rows = trainer.rows_per_step // trainer.processes * samples
    one = prompt + new
    whole = trainer.rows_per_step * (prompt + samples * new) if trainer.is_flat else rows * one
    return max(one, min(trainer.token_budget, whole)), one


def writing_tokens(trainer: OnPolicyTrainer) -> tuple[int, int]:
    """(rows x tokens of the largest batch that is written, of the smallest possible one: one prompt's responses)."""
    samples = trainer.samples_per_prompt
    one = max(trainer.lengths) + trainer.config.max_new_tokens
    rows = max(samples, trainer.config.rollout_batch_tokens // one // samples * samples)
    evaluated = 0 if trainer.eval_dataset is None else len(trainer.eval_dataset)
    rows = min(rows, max(trainer.prompts_per_rollout * samples, evaluated))
    return rows * one, samples * one


def writing_bytes(trainer: OnPolicyTrainer, tokens: int) -> int:
    """Key-value cache and logits of a batch of so many rows x tokens, and its prompts' way through the widest layer."""
    prompt, new = max(trainer.lengths), trainer.config.max_new_tokens
    rows = math.ceil(tokens / (prompt + new))
    columns = prompt + math.ceil(new / (SPARE_COLUMNS + 1)) * (SPARE_COLUMNS + 1)
    head = output_head(trainer.model).weight
    layers: list[Any] = list(adaptable_layers(base_of(trainer.model)).values())
    widest = max(max(layer.weight.shape) for layer in layers)
    prefill = rows // trainer.samples_per_prompt * prompt * widest * PREFILL_COPIES * 4
    return int(rows * columns * cache_bytes(trainer.model)) + max(LOGITS_COPIES * rows * head.shape[0] * 4, prefill)


def base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def cache_bytes(model: Any, tokens: int = 8) -> float:
    """Bytes that one token takes in the cache, asked of the model itself."""
    cache = new_cache(model)
    with evaluation_mode(model):
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long, device=model.device), past_key_values=cache)
    kept = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(t.numel() * t.element_size() for t in kept if t is not None) / tokens


def duration(trainer: OnPolicyTrainer, written: Written) -> Duration:
    """From the responses that were written: a rollout, a step on it, an evaluation."""
    batches = batches_of(trainer, written.rollout)
    learning = seconds_of(lambda: backward(trainer, batches), trainer.accelerator.device)
    prompts = len(written.rollout.rows) // written.rollout.samples
    share = trainer.rows_per_step / trainer.processes
    rows = max(1, trainer.config.rollout_batch_tokens // (max(trainer.lengths) + trainer.config.max_new_tokens))

    def seconds(responses: int) -> float:
        mine = math.ceil(responses / trainer.processes)
        return written.seconds(mine, math.ceil(mine / rows))

    asked = min(trainer.prompts_per_rollout, len(trainer.lengths))
    return Duration(
        step=learning / prompts * min(share, len(trainer.lengths)) + adam_seconds(trainer),
        steps=trainer.total_steps,
        rollout=seconds(asked * trainer.samples_per_prompt),
        rollouts=math.ceil(trainer.total_steps / trainer.steps_per_rollout),
        evaluation=0.0 if trainer.eval_dataset is None else seconds(len(trainer.eval_dataset)),
        evaluations=evaluations_of(trainer),
    )
