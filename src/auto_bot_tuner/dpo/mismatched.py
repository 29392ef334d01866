"""KTO's reference point: how far the policy has moved on answers that belong to other prompts.

The KL divergence of policy and reference would need the policy's own samples. KTO (2402.01306) takes the answers at
hand instead, each under the prompt of the row after it: on pairings that nobody judged, the log-ratio measures the
general drift and not what was learnt about the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from auto_bot_tuner.data.response_groups import Group
from auto_bot_tuner.evaluation.engine import context_limit
from auto_bot_tuner.training.batching import collate_groups

if TYPE_CHECKING:
    from auto_bot_tuner.dpo.trainer import DPOTrainer


@torch.no_grad()
def drift(trainer: DPOTrainer, dataset: Any, rows: Sequence[int]) -> torch.Tensor:
    """Mean log-ratio of policy and reference over the mismatched pairings of these rows, of all processes: a scalar."""
    log_ratios, device = 0.0, trainer.accelerator.device
    if len(rows) > 1:  # a row alone has no other prompt
        policy = trainer.accelerator.unwrap_model(trainer.module)
        pairings = Mismatched(dataset, rows, context_limit(trainer.model))
        for cut in trainer.cuts(range(len(rows)), pairings.lengths):
            # Of an empty share too, as all processes gather sharded weights together; it counts nothing.
            batch = collate_groups(pairings, cut).to(device)
            inputs = (batch[name] for name in ("input_ids", "labels", "lengths", "shared"))
            log_ratio = (policy(*inputs) - trainer.reference_logprobs(batch)).sum()
            log_ratios += float(log_ratio) if cut else 0.0
    return torch.tensor(trainer.total([log_ratios])[0] / len(rows), device=device)


class Mismatched:
    """Rows of a data set of single answers, each prompt with the answer of the row before (the first: of the last).

    Rows of the same prompt are passed over: a pair leaves two of them as neighbours, and what the model learnt of an
    answer under its own prompt is no drift.
    """

    def __init__(self, dataset: Any, rows: Sequence[int], longest: int | None) -> None:
        groups = [dataset.group(row) for row in rows]
        prompts = [group.input_ids[0][: group.prompt_length].tolist() for group in groups]
        self.groups = [mismatch(groups[i], groups[row_before(prompts, i)], longest) for i in range(len(groups))]
        self.lengths = [len(group.input_ids[0]) for group in self.groups]

    def __len__(self) -> int:
        return len(self.groups)

    def group(self, index: int) -> Group:
        return self.groups[index]


def row_before(prompts: Sequence[list[int]], row: int) -> int:
    """The nearest row before this one, around the start, that has another prompt; the one before where none has.

    >>> [row_before([[1], [1], [2], [2]], row) for row in range(4)]
    [3, 3, 1, 1]
    """
    around = ((row - back) % len(prompts) for back in range(1, len(prompts)))
    return next((other for other in around if prompts[other] != prompts[row]), row - 1)


def mismatch(prompt_of: Group, answer_of: Group, longest: int | None) -> Group:
    """The prompt of one and the answer of the other, cut to `longest` tokens: each fits into the model by itself."""
    start, own = prompt_of.prompt_length, answer_of.prompt_length
    input_ids = torch.cat([prompt_of.input_ids[0][:start], answer_of.input_ids[0][own:]])[:longest]  # (T,)
    labels = torch.cat([prompt_of.labels[0][:start], answer_of.labels[0][own:]])[:longest]
    return Group([input_ids], [labels], start, answer_of.scores)
