"""From a rollout to the batches of forward passes, and back: where prompts and responses become sequences again.

    rollout (N, R)  --collate-->  sequences (S, T), prompt and response  --forward-->  (S, T)  --at_responses-->  (S, R)

A *group* is a prompt with its responses. Where rows travel flat they stay together, and the prompt is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.training import batching
from auto_bot_tuner.training.batching import Batch

# What the modules that read sequences are called with.
SEQUENCES = ("input_ids", "labels", "lengths", "shared")
# What a batch takes along of a rollout, as far as it has got.
PER_TOKEN = ("reference_logprobs", "advantages", "values", "returns")


def rows_of(rollout: Rollout, groups: Sequence[int]) -> list[int]:
    """The responses of these groups, group by group."""
    return [group * rollout.samples + k for group in groups for k in range(rollout.samples)]


def units_of(
    rollout: Rollout, groups: Iterable[int], is_flat: bool, token_budget: int
) -> tuple[list[list[int]], list[int]]:
    """The rows that travel together, and the tokens that each such unit takes in a forward pass.

    Where rows travel flat a prompt goes with its responses and is computed once; what exceeds the budget is a unit of
    its own, with the prompt again. Elsewhere each response goes alone: padded rows share nothing.
    """
    units, costs = list[list[int]](), list[int]()
    for group in groups:
        for k, row in enumerate(rows_of(rollout, [group])):
            attempt = rollout.attempts[row]
            if is_flat and k > 0 and costs[-1] + len(attempt.response_ids) <= token_budget:
                units[-1].append(row)
                costs[-1] += len(attempt.response_ids)
            else:
                units.append([row])
                costs.append(len(attempt.prompt_ids) + len(attempt.response_ids))
    return units, costs


def collate(rollout: Rollout, rows: Sequence[int], loss_mask: torch.Tensor) -> Batch:
    """Right-padded prompts with responses: input_ids, labels (S, T), lengths, shared (S,) as in `training/batching.py`.

    And of the rollout mask (the loss's), old_logprobs and `PER_TOKEN`, (S, R) with R the longest response of these. Its
    weight is left at 0: the method says it. No rows (a process with nothing to do in this step): the first one.
    """
    chosen = list(rows) or [0]
    attempts = [rollout.attempts[row] for row in chosen]
    batch = batching.collate(
        [sequence_of(attempt.prompt_ids, attempt.response_ids) for attempt in attempts], range(len(attempts))
    )
    groups = [None, *(row // rollout.samples for row in chosen)]  # a neighbour of the same prompt shares it
    shared = [len(a.prompt_ids) * (now == before) for a, before, now in zip(attempts, groups, groups[1:], strict=False)]
    width = int(rollout.lengths[chosen].max())
    tensors = batch.tensors | {
        "shared": torch.tensor(shared),
        "mask": loss_mask[chosen, :width],
        "old_logprobs": rollout.logprobs[chosen, :width],
    }
    for name in PER_TOKEN:
        if (values := getattr(rollout, name)) is not None:
            tensors[name] = values[chosen, :width]
    return Batch(tensors, 0, batch.tokens if rows else 0, [rollout.rows[row] for row in chosen])


def sequence_of(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Prompt and response as one sequence whose response is trained."""
    return {
        "input_ids": torch.tensor([*prompt_ids, *response_ids]),
        "labels": torch.tensor([*[IGNORE_INDEX] * len(prompt_ids), *response_ids]),
    }


def at_responses(per_token: torch.Tensor, labels: torch.Tensor, width: int) -> torch.Tensor:
    """Values (S, T) of the response tokens, moved to where each response begins at 0: (S, R), with gradient.

    Row by row the trained tokens of labels (S, T) are the response; it fits into `width` columns.
    """
    trained = labels != IGNORE_INDEX  # (S, T)
    columns = torch.arange(width, device=labels.device)
    places = columns < trained.sum(dim=1, keepdim=True)  # (S, R)
    return per_token.new_zeros(places.shape).masked_scatter(places, per_token[trained])
