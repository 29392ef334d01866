"""From rows to forward passes: each row once, none of its tokens lost, none of the padding trained."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auto_bot_tuner.data.response_groups import Group
from auto_bot_tuner.training.batching import (
    Batch,
    collate,
    collate_groups,
    cut_by_tokens,
    epoch_order,
    fingerprint,
    in_order,
    longest_sequence,
    row_lengths,
    sequences_of,
    share_between,
)

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def row(*ids: int, trained_from: int = 0) -> dict[str, torch.Tensor]:
    labels = [-100] * trained_from + list(ids[trained_from:])
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


ROWS = [row(7, 8, 9, trained_from=1), row(5, 0), row(3, 0, 4, 0, 6, trained_from=3)]  # 0 is a token like any other


class Groups:
    """Two prompts, of 2 and 1 tokens, with two and three responses."""

    lengths = (2 + 1 + 3, 1 + 1 + 1 + 2)

    def __init__(self) -> None:
        self.groups = [
            Group(*self.sides([1, 2], [[3], [4, 5, 6]]), prompt_length=2, scores=[1.0, math.nan]),
            Group(*self.sides([9], [[8], [7], [6, 5]]), prompt_length=1, scores=[0.5, 0.25, 0.0]),
        ]

    @staticmethod
    def sides(prompt: list[int], responses: list[list[int]]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        ids = [torch.tensor(prompt + response) for response in responses]
        labels = [torch.tensor([-100] * len(prompt) + response) for response in responses]
        return ids, labels

    def __len__(self) -> int:
        return len(self.groups)

    def group(self, index: int) -> Group:
        return self.groups[index]


# ---- the order of the rows ----


@pytest.mark.parametrize("rows", [1, 2, 37])
def test_an_epoch_s_order_is_a_permutation_that_seed_and_epoch_alone_decide(rows: int) -> None:
    order = epoch_order(rows, 5, 2)
    assert sorted(order) == list(range(rows))
    torch.rand(3)  # the global generator is no part of it
    epoch_order.cache_clear()
    assert epoch_order(rows, 5, 2) == order


def test_no_two_of_many_seeds_and_epochs_share_an_order() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(12) for epoch in range(12)}
    assert len(orders) == 144


# ---- cuts ----


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 100))
def test_cuts_hold_each_row_once_by_length_within_the_budget_and_none_too_early(
    lengths: list[int], budget: int
) -> None:
    cuts = cut_by_tokens(range(len(lengths)), lengths, budget)
    flat = [r for cut in cuts for r in cut]
    assert sorted(flat) == list(range(len(lengths)))
    assert flat == sorted(flat, key=lambda r: (-lengths[r], r))  # long to short, alike in the order of the data
    for cut, following in zip(cuts, [*cuts[1:], None], strict=True):
        assert len(cut) == 1 or len(cut) * lengths[cut[0]] <= budget
        assert following is None or (len(cut) + 1) * lengths[cut[0]] > budget  # one more would not have fitted


def test_a_cut_may_fill_the_budget_to_the_last_token() -> None:
    assert cut_by_tokens([0, 1, 2], [5, 5, 5], 10) == [[0, 1], [2]]


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 60), st.integers(1, 5))
def test_shared_cuts_are_as_many_for_each_process_and_hold_the_same_rows(
    lengths: list[int], budget: int, processes: int
) -> None:
    cuts = cut_by_tokens(range(len(lengths)), lengths, budget)
    before = [list(cut) for cut in cuts]
    shared = share_between(cuts, lengths, processes)
    assert cuts == before  # the caller's stay as they were
    assert len(shared) % processes == 0
    assert len(shared) - len(cuts) < processes  # no more of them than needed
    assert sorted(r for cut in shared for r in cut) == list(range(len(lengths)))
    if any(not cut for cut in shared):  # empty ones only where nothing is left to halve
        assert all(len(cut) <= 1 for cut in shared)


def test_the_cut_with_the_most_padded_tokens_is_halved() -> None:
    lengths = [10, 2, 4, 4, 4, 4, 30]
    # Padded: 2 x 10 = 20, 4 x 4 = 16, 1 x 30 = 30, which is one row and cannot be halved.
    cuts = [[0, 1], [2, 3, 4, 5], [6]]
    assert share_between(cuts, lengths, 4) == [[0], [1], [2, 3, 4, 5], [6]]
    assert share_between(cuts, lengths, 5) == [[0], [1], [2, 3], [4, 5], [6]]
    assert share_between([[2, 3, 4]], lengths, 2) == [[2], [3, 4]]
    assert share_between([[0]], lengths, 3) == [[0], [], []]


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 7), st.integers(1, 4))
def test_the_processes_of_an_evaluation_see_each_row_once_between_them(
    lengths: list[int], batch_size: int, processes: int
) -> None:
    shares = [list(in_order(lengths, batch_size, processes, rank)) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(r for share in shares for cut in share for r in cut) == list(range(len(lengths)))
    assert all(len(cut) <= batch_size for share in shares for cut in share)
    if processes == 1:
        flat = [r for cut in shares[0] for r in cut]
        assert flat == sorted(flat, key=lambda r: (-lengths[r], r))
        assert all(len(cut) == batch_size for cut in shares[0][:-1])


# ---- tensors ----


def test_a_batch_by_hand() -> None:
    batch = collate(ROWS, [2, 0, 1])
    assert batch["input_ids"].tolist() == [[3, 0, 4, 0, 6], [7, 8, 9, 0, 0], [5, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100] * 3 + [0, 6], [-100, 8, 9, -100, -100], [5, 0, -100, -100, -100]]
    assert batch["lengths"].tolist() == [5, 3, 2]
    assert batch["input_ids"].dtype == batch["labels"].dtype == batch["lengths"].dtype == torch.long
    assert (batch.weight, batch.tokens, batch.rows) == (2 + 2 + 1, 10, [2, 0, 1])  # row 1's first token is no target


def test_rows_may_be_plain_lists() -> None:
    batch = collate([{"input_ids": [1, 2], "labels": [-100, 2]}], [0])
    assert (batch["input_ids"].tolist(), batch["labels"].tolist(), batch.weight) == ([[1, 2]], [[-100, 2]], 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=8), st.randoms())
def test_what_is_in_a_row_comes_out_of_its_batch(rows: list[list[int]], random: Any) -> None:
    dataset = [
        {"input_ids": torch.tensor(ids), "labels": torch.tensor([random.choice([i, -100]) for i in ids])}
        for ids in rows
    ]
    batch = collate(dataset, range(len(rows)))
    for b, item in enumerate(dataset):
        length = int(batch["lengths"][b])
        assert torch.equal(batch["input_ids"][b, :length], item["input_ids"])
        assert torch.equal(batch["labels"][b, :length], item["labels"])
        assert (batch["labels"][b, length:] == -100).all()
    assert batch["labels"].shape == (len(rows), max(map(len, rows)))
    assert batch.weight == sum(label != -100 for item in dataset for label in item["labels"][1:].tolist())
    assert batch.tokens == sum(map(len, rows))


def test_no_rows_are_the_first_row_and_weigh_nothing() -> None:
    batch = collate(ROWS, [])
    assert batch["input_ids"].tolist() == [[7, 8, 9]] and (batch.weight, batch.tokens, batch.rows) == (0, 0, [])
    groups = collate_groups(Groups(), [])
    assert groups["input_ids"].tolist() == [[1, 2, 3, 0, 0], [1, 2, 4, 5, 6]]
    assert (groups.weight, groups.tokens, groups.rows) == (0, 0, [])


def test_groups_by_hand() -> None:
    batch = collate_groups(Groups(), [1, 0])
    assert batch["input_ids"].tolist() == [
        [9, 8, 0, 0, 0],
        [9, 7, 0, 0, 0],
        [9, 6, 5, 0, 0],
        [1, 2, 3, 0, 0],
        [1, 2, 4, 5, 6],
    ]
    assert batch["labels"][:2].tolist() == [[-100, 8, -100, -100, -100], [-100, 7, -100, -100, -100]]
    assert batch["labels"][4].tolist() == [-100, -100, 4, 5, 6]
    assert batch["shared"].tolist() == [0, 1, 1, 0, 2]
    assert batch["group"].tolist() == [0, 0, 0, 1, 1]
    assert batch["scores"].tolist()[:4] == [0.5, 0.25, 0.0, 1.0] and math.isnan(batch["scores"][4])
    assert (batch.weight, batch.tokens, batch.rows) == (2, 2 + 2 + 3 + 3 + 5, [1, 0])


def test_responses_without_labels_of_their_own_are_refused_not_left_out() -> None:
    groups = Groups()
    groups.groups[0].labels.pop()
    for read in (lambda: collate_groups(groups, [0]), lambda: sequences_of(groups, 0)):
        with pytest.raises(ValueError, match="shorter"):
            read()


def test_a_batch_moves_as_a_whole() -> None:
    batch = Batch({"a": torch.tensor([1.0]), "b": torch.tensor([2])}, 3.5, 7, [4, 1])
    moved = batch.to("meta")
    assert {name: tensor.device.type for name, tensor in moved.tensors.items()} == {"a": "meta", "b": "meta"}
    assert (moved.weight, moved.tokens, moved.rows) == (3.5, 7, [4, 1])
    assert moved["b"].dtype == torch.long


# ---- what is asked of a data set ----


def test_sequences_and_lengths_of_rows_and_of_groups() -> None:
    ((ids, labels),) = sequences_of(ROWS, 0)
    assert (ids.tolist(), labels.tolist()) == ([7, 8, 9], [-100, 8, 9])
    ((ids, labels),) = sequences_of([{"input_ids": torch.tensor([4, 5])}], 0)  # a prompt
    assert (ids.tolist(), labels.tolist()) == ([4, 5], [-100, -100])
    assert [ids.tolist() for ids, _ in sequences_of(Groups(), 1)] == [[9, 8], [9, 7], [9, 6, 5]]
    assert [labels.tolist() for _, labels in sequences_of(Groups(), 1)] == [[-100, 8], [-100, 7], [-100, 6, 5]]
    assert row_lengths(ROWS) == [3, 2, 5] and longest_sequence(ROWS) == 5
    assert row_lengths(Groups()) == [6, 5] and longest_sequence(Groups()) == 5  # the longest side, not the group


def test_a_data_set_that_knows_its_lengths_is_not_read() -> None:
    class Known:
        lengths = torch.tensor([4, 2])  # any numbers; plain integers come out

    assert row_lengths(Known()) == [4, 2] and all(type(length) is int for length in row_lengths(Known()))


def test_the_fingerprint_is_of_ids_labels_and_lengths_alone() -> None:
    def of(rows: list[dict[str, torch.Tensor]]) -> str:
        return fingerprint(rows, row_lengths(rows))

    assert of(ROWS) == of([{**item, "note": "of no matter"} for item in ROWS])  # type: ignore[dict-item]
    other_id, other_label = [dict(item) for item in ROWS], [dict(item) for item in ROWS]
    other_id[2]["input_ids"] = torch.tensor([3, 0, 4, 1, 6])
    other_label[1]["labels"] = torch.tensor([-100, 0])
    assert len({of(ROWS), of(other_id), of(other_label), of(ROWS[::-1]), of(ROWS[:2])}) == 5
    assert of(ROWS).startswith("3 rows ") and len(of(ROWS).split()[-1]) == 8
    assert fingerprint(Groups(), Groups.lengths) != fingerprint(
        Groups(), (5, 6)
    )  # each length counts, also unread ones


def test_the_fingerprint_reads_some_rows_over_the_whole_of_a_large_set() -> None:
    rows = [row(i % 90, 1) for i in range(1200)]
    lengths = row_lengths(rows)
    read: list[int] = []

    class Watched:
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            read.append(index)
            return rows[index]

    digest = fingerprint(Watched(), lengths)
    assert digest.startswith("1,200 rows ")
    assert read[0] == 0 and read[-1] > 1100 and 25 <= len(read) <= 100
    steps = {after - before for before, after in pairwise(read)}
    assert len(steps) == 1  # evenly
