"""From rows to the micro-batches of one optimiser step.

An optimiser step sees a fixed set of rows, whatever way they are cut: the loop weights each micro-batch by its
trained tokens, so the gradient is the same. That freedom is spent on speed: rows are sorted by length *within the
step* (the order of the data between steps stays random) and cut so that no forward pass exceeds a budget of padded
tokens. Short rows travel together, and hardly any padding is left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from auto_bot_tuner.data import IGNORE_INDEX


@dataclass
class Batch:
    """One forward pass."""

    tensors: dict[str, torch.Tensor]  # input_ids (B, T), labels (B, T), lengths (B,), …
    weight: float  # trained tokens (or pairs): the share of the step's gradient that is this batch's
    tokens: int  # real tokens, padding left out
    rows: list[int]  # where they came from, for messages

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def to(self, device: torch.device | str) -> Batch:
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}
        return Batch(moved, self.weight, self.tokens, self.rows)


@lru_cache(maxsize=2)  # asked for at every step, and a permutation of a million rows takes a while
def epoch_order(num_rows: int, seed: int, epoch: int) -> list[int]:
    """The order of the rows in an epoch: a function of seed and epoch alone, so a resumed run finds its place."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(num_rows, generator=generator).tolist()


def cut_by_tokens(rows: Sequence[int], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Sort rows by length and cut them so that (rows x longest row) stays within the budget.

    A row longer than the budget goes alone: nothing is ever dropped here.

    >>> cut_by_tokens([0, 1, 2, 3], lengths=[2, 8, 3, 4], token_budget=10)
    [[1], [3, 2], [0]]
    """
    cuts: list[list[int]] = []
    for row in sorted(rows, key=lambda r: (-lengths[r], r)):
        # Sorted from long to short: the first row of a cut is its longest, and all are padded to it.
        if cuts and (len(cuts[-1]) + 1) * lengths[cuts[-1][0]] <= token_budget:
            cuts[-1].append(row)
        else:
            cuts.append([row])
    return cuts


def share_between(cuts: list[list[int]], lengths: Sequence[int], processes: int) -> list[list[int]]:
    """Make the number of cuts a multiple of the number of processes; process p then takes cuts[p::processes].

    Every process must do the same number of backward passes or they wait for each other for ever. The cut with the
    most padded tokens is halved until the number fits; where only single rows are left, empty cuts fill up.
    """
    cuts = [list(cut) for cut in cuts]
    while len(cuts) % processes:
        largest = max(
            range(len(cuts)), key=lambda i: (len(cuts[i]) > 1, len(cuts[i]) * max(lengths[r] for r in cuts[i]))
        )
        if len(cuts[largest]) == 1:
            return cuts + [[]] * (-len(cuts) % processes)
        middle = len(cuts[largest]) // 2
        cuts[largest : largest + 1] = [cuts[largest][:middle], cuts[largest][middle:]]
    return cuts


def collate(dataset: Any, rows: Sequence[int]) -> Batch:
    """Right-pad rows to the longest of them: input_ids and labels (B, T), lengths (B,).

    Padding takes the label -100, so its own id never matters, and the real tokens are known by length, never by
    comparing ids with the pad id: with pad == eos that would delete every end token. No rows (a process with
    nothing to do in this step) become row 0 with weight 0: its gradient is nothing, but every process takes part.
    """
    items = [dataset[row] for row in rows] or [dataset[0]]
    lengths = [len(item["input_ids"]) for item in items]
    longest = max(lengths)
    input_ids = torch.zeros(len(items), longest, dtype=torch.long)  # (B, T)
    labels = torch.full((len(items), longest), IGNORE_INDEX, dtype=torch.long)  # (B, T)
    for i, item in enumerate(items):
        length = lengths[i]
        input_ids[i, :length] = torch.as_tensor(item["input_ids"])
        labels[i, :length] = torch.as_tensor(item["labels"])
    # The first token of a row is no target, whatever its label: nothing predicts it.
    weight = int((labels[:, 1:] != IGNORE_INDEX).sum()) if rows else 0
    tokens = sum(lengths) if rows else 0
    tensors = {"input_ids": input_ids, "labels": labels, "lengths": torch.tensor(lengths)}
    return Batch(tensors, weight, tokens, list(rows))


def collate_groups(dataset: Any, rows: Sequence[int]) -> Batch:
    """Groups of responses to one prompt (a pair, a ranking) as right-padded sequences, group after group.

    input_ids and labels (S, T) and lengths (S,) as `collate`; shared (S,): leading tokens that the group's first
    sequence has computed already, its prompt (0 for the first itself); group (S,): whose sequence it is, 0 ≤ group < B;
    scores (S,): what the data says of the response, nan where it says nothing. Pairs: 0::2 chosen, 1::2 rejected.
    The weight is the number of groups. No rows: as in `collate`.
    """
    groups = [dataset.group(row) for row in rows or [0]]
    sequences = [
        {"input_ids": ids, "labels": labels}
        for group in groups
        for ids, labels in zip(group.input_ids, group.labels, strict=True)
    ]
    batch = collate(sequences, range(len(sequences)))
    sizes = [len(group.input_ids) for group in groups]
    shared = [group.prompt_length * (k > 0) for group, size in zip(groups, sizes, strict=True) for k in range(size)]
    batch.tensors |= {
        "shared": torch.tensor(shared),
        "group": torch.arange(len(groups)).repeat_interleave(torch.tensor(sizes)),
        "scores": torch.tensor([score for group in groups for score in group.scores]),
    }
    return Batch(batch.tensors, len(rows), batch.tokens if rows else 0, list(rows))


def sequences_of(dataset: Any, row: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(input_ids, labels) of a row's sequences: one, or those of a group. A prompt alone has no labels: nothing of it
    is trained."""
    if hasattr(dataset, "group"):
        group = dataset.group(row)
        return list(zip(group.input_ids, group.labels, strict=True))
    item = dataset[row]
    labels = item["labels"] if "labels" in item else torch.full_like(item["input_ids"], IGNORE_INDEX)
    return [(item["input_ids"], labels)]


def fingerprint(dataset: Any, lengths: Sequence[int]) -> str:
    """A short digest of the rows: all their lengths, and the ids and labels of some spread over them."""
    digest = hashlib.sha256(str(list(lengths)).encode())
    for row in range(0, len(lengths), max(1, len(lengths) // 50)):
        for input_ids, labels in sequences_of(dataset, row):
            digest.update(str([input_ids.tolist(), labels.tolist()]).encode())
    return f"{len(lengths):,} rows {digest.hexdigest()[:8]}"


def longest_sequence(dataset: Any) -> int:
    """Tokens of the longest sequence that a model has to read; a group's row holds several."""
    if hasattr(dataset, "group"):
        return max(len(ids) for row in range(len(dataset)) for ids in dataset.group(row).input_ids)
    return max(row_lengths(dataset))


def row_lengths(dataset: Any) -> list[int]:
    """Tokens of each row: the dataset's own count where it keeps one, else counted."""
    if hasattr(dataset, "lengths"):
        return [int(length) for length in dataset.lengths]
    return [len(dataset[i]["input_ids"]) for i in range(len(dataset))]


def in_order(lengths: Sequence[int], batch_size: int, processes: int, rank: int) -> Iterator[list[int]]:
    """The rows of an evaluation's batches: every row once, similar lengths together, this process's share."""
    by_length = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    cuts = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    yield from share_between(cuts, lengths, processes)[rank::processes]
