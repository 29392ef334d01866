"""Rollouts as sequences and back: every response where its prompt ends, every number at its own token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auto_bot_tuner.rewards.source import Attempt
from auto_bot_tuner.rollouts.minibatches import at_responses, collate, rows_of, sequence_of, units_of
from auto_bot_tuner.rollouts.rollout import Rollout

PROMPTS = [[11, 12, 13], [21]]
RESPONSES = [[1, 2], [3], [4, 5, 6, 7], [8, 0, 9]]  # two of each prompt; 0 is a token like any other


def a_rollout(prompts: list[list[int]], responses: list[list[int]], **fields: Any) -> Rollout:
    samples = len(responses) // len(prompts)
    attempts = [
        Attempt(prompt=[], response="", ended=True, row={}, prompt_ids=prompts[i // samples], response_ids=response)
        for i, response in enumerate(responses)
    ]
    lengths = torch.tensor([len(response) for response in responses])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return Rollout(
        rows=[100 + i // samples for i in range(len(responses))],
        samples=samples,
        attempts=attempts,
        responses=torch.zeros(mask.shape, dtype=torch.long).masked_scatter(mask, torch.tensor(sum(responses, []))),
        mask=mask,
        ended=torch.ones(len(responses), dtype=torch.bool),
        logprobs=numbered(mask, 1000),
        **fields,
    )


def numbered(mask: torch.Tensor, start: int) -> torch.Tensor:
    """A different number at each place, 0 under padding."""
    return (start + torch.arange(mask.numel(), dtype=torch.float32).view(mask.shape)) * mask


def test_the_rows_of_groups_are_neighbours() -> None:
    rollout = a_rollout(PROMPTS, RESPONSES)
    assert rows_of(rollout, [1, 0]) == [2, 3, 0, 1]
    assert rows_of(rollout, []) == []


def test_a_sequence_trains_its_response_and_only_it() -> None:
    item = sequence_of([7, 8], [9, 0])
    assert item["input_ids"].tolist() == [7, 8, 9, 0] and item["labels"].tolist() == [-100, -100, 9, 0]


def test_units_by_hand() -> None:
    rollout = a_rollout(PROMPTS, RESPONSES)
    # Flat: 3 + 2, and the second response makes 6; 1 + 4, and 3 more make 8.
    assert units_of(rollout, [0, 1], True, 8) == ([[0, 1], [2, 3]], [6, 8])
    assert units_of(rollout, [0, 1], True, 7) == ([[0, 1], [2], [3]], [6, 5, 4])
    assert units_of(rollout, [1, 0], True, 5) == ([[2], [3], [0], [1]], [5, 4, 5, 4])
    assert units_of(rollout, [0, 1], False, 100) == ([[0], [1], [2], [3]], [5, 4, 5, 4])
    assert units_of(rollout, [], True, 100) == ([], [])


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 30))
def test_a_unit_is_one_prompt_within_the_budget_and_not_smaller_than_need_be(
    data: st.DataObject, samples: int, budget: int
) -> None:
    sizes = st.integers(1, 9)
    prompts = [[5] * data.draw(sizes) for _ in range(3)]
    rollout = a_rollout(prompts, [[6] * data.draw(sizes) for _ in range(3 * samples)])
    units, costs = units_of(rollout, range(3), True, budget)
    assert [row for unit in units for row in unit] == list(range(3 * samples))
    responses = [len(attempt.response_ids) for attempt in rollout.attempts]
    for i, (unit, cost) in enumerate(zip(units, costs, strict=True)):
        assert {row // samples for row in unit} == {unit[0] // samples}
        assert cost == len(prompts[unit[0] // samples]) + sum(responses[row] for row in unit)
        assert len(unit) == 1 or cost <= budget
        if i + 1 < len(units) and units[i + 1][0] % samples:  # the next goes on with this prompt, having no room here
            assert cost + responses[units[i + 1][0]] > budget


def test_a_batch_by_hand() -> None:
    rollout = a_rollout(PROMPTS, RESPONSES)
    loss_mask = rollout.mask & torch.tensor([True, True, False, True])[:, None]  # one response is left out
    rollout.advantages = numbered(rollout.mask, 50)
    batch = collate(rollout, [3, 0, 1], loss_mask)
    assert batch["input_ids"].tolist() == [[21, 8, 0, 9, 0], [11, 12, 13, 1, 2], [11, 12, 13, 3, 0]]
    assert batch["labels"].tolist() == [[-100, 8, 0, 9, -100], [-100] * 3 + [1, 2], [-100] * 3 + [3, -100]]
    assert batch["lengths"].tolist() == [4, 5, 4]
    assert batch["shared"].tolist() == [0, 0, 3]  # only a neighbour of the same prompt shares it
    assert (batch.weight, batch.tokens, batch.rows) == (0, 13, [101, 100, 100])
    # R is 3, the longest of these, not 4, the rollout's.
    assert torch.equal(batch["mask"], loss_mask[[3, 0, 1], :3])
    assert torch.equal(batch["old_logprobs"], rollout.logprobs[[3, 0, 1], :3])
    assert torch.equal(batch["advantages"], rollout.advantages[[3, 0, 1], :3])
    assert set(batch.tensors) == {"input_ids", "labels", "lengths", "shared", "mask", "old_logprobs", "advantages"}


def test_a_batch_takes_along_what_the_rollout_has() -> None:
    rollout = a_rollout(PROMPTS, RESPONSES)
    names = ("reference_logprobs", "advantages", "values", "returns")
    for k, name in enumerate(names):
        setattr(rollout, name, numbered(rollout.mask, 100 * k))
    batch = collate(rollout, [2], rollout.mask)
    for name in names:
        assert torch.equal(batch[name], getattr(rollout, name)[[2]])


def test_the_first_row_stands_in_for_none() -> None:
    rollout = a_rollout(PROMPTS, RESPONSES)
    batch = collate(rollout, [], rollout.mask)
    assert batch["input_ids"].tolist() == [[11, 12, 13, 1, 2]] and batch["mask"].tolist() == [[True, True]]
    assert (batch.weight, batch.tokens) == (0, 0)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2, 0], [1]])
def test_there_and_back_each_number_is_at_its_token(rows: list[int]) -> None:
    """A number for each token of a sequence, at the response's places, is the response's own, whatever the prompt."""
    rollout = a_rollout(PROMPTS, RESPONSES)
    batch = collate(rollout, rows, rollout.mask)
    width = batch["mask"].shape[1]
    per_token = batch["input_ids"].double().requires_grad_()  # what stands there
    found = at_responses(per_token, batch["labels"], width)
    assert torch.equal(found, rollout.responses[rows, :width].double() * rollout.mask[rows, :width])
    assert found.dtype == torch.float64
    found.sum().backward()
    assert torch.equal(per_token.grad, (batch["labels"] != -100).double())  # each token's own gradient, once


def test_what_is_wider_than_the_responses_stays_zero() -> None:
    labels = torch.tensor([[-100, 4, 5], [-100, -100, 6]])
    per_token = torch.tensor([[9.0, 1, 2], [9, 9, 3]])
    assert at_responses(per_token, labels, 4).tolist() == [[1, 2, 0, 0], [3, 0, 0, 0]]
    with torch.device("meta"):  # what names no device would be there: tensors are born where the numbers are
        assert at_responses(per_token, labels, 2).tolist() == [[1, 2], [3, 0]]
