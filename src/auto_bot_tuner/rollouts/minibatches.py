"""From a rollout to the batches of forward passes, and back: where prompts and responses become sequences again.

    rollout (N, R)  --collate-->  sequences (S, T), prompt and response  --forward-->  (S, T)  --at_responses-->  (S, R)

A *group* is a prompt with its responses. They stay together: where rows travel flat the prompt is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.training import batching
from auto_bot_tuner.training.batching import Batch

# What a batch takes along of a rollout, as far as it has got.
PER_TOKEN = ("reference_logprobs", "advantages", "values", "returns")


def rows_of(rollout: Rollout, groups: Sequence[int]) -> list[int]:
    """The responses of these groups, group by group."""
    return [group * rollout.samples + k for group in groups for k in range(rollout.samples)]


def costs(rollout: Rollout, is_flat: bool) -> list[int]:
    """Tokens that each group takes in a forward pass: its prompt once where rows travel flat, else all padded."""
    lengths = rollout.lengths.view(-1, rollout.samples)  # (groups, samples)
    prompts = [len(attempt.prompt_ids) for attempt in rollout.attempts[:: rollout.samples]]
    if is_flat:
        return [prompt + int(total) for prompt, total in zip(prompts, lengths.sum(dim=1), strict=True)]
    longest = lengths.amax(dim=1)
    return [(prompt + int(length)) * rollout.samples for prompt, length in zip(prompts, longest, strict=True)]


def collate(rollout: Rollout, groups: Sequence[int], loss_mask: torch.Tensor) -> Batch:
    """Right-padded prompts with responses: input_ids, labels (S, T), lengths, shared (S,) as in `training/batching.py`.

    And of the rollout mask (the loss's), old_logprobs and `PER_TOKEN`, (S, R) with R the longest response of these. Its
    weight is left at 0: the method says it. No groups (a process with nothing to do in this step): the first one.
    """
    rows = rows_of(rollout, groups or [0])
    attempts = [rollout.attempts[row] for row in rows]
    sequences = [sequence_of(attempt.prompt_ids, attempt.response_ids) for attempt in attempts]
    batch = batching.collate(sequences, range(len(sequences)))
    shared = [len(attempt.prompt_ids) * (i % rollout.samples > 0) for i, attempt in enumerate(attempts)]
    width = int(rollout.lengths[rows].max())
    tensors = batch.tensors | {
        "shared": torch.tensor(shared),
        "mask": loss_mask[rows, :width],
        "old_logprobs": rollout.logprobs[rows, :width],
    }
    for name in PER_TOKEN:
        if (values := getattr(rollout, name)) is not None:
            tensors[name] = values[rows, :width]
    return Batch(tensors, 0, batch.tokens if groups else 0, [rollout.rows[row] for row in rows])


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
