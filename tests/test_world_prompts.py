"""`tiny-prompts` and `tiny-puzzles`: new questions that code can check, and what is tested is not trained."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from auto_bot_tuner.assets.examples import held_out
from auto_bot_tuner.assets.gold import is_correct
from auto_bot_tuner.assets.preferences import preference_rows
from auto_bot_tuner.assets.prompts import PUZZLES, ROWS_PER_TASK, prompt_rows, puzzle_rows
from auto_bot_tuner.assets.world import TRAIN_ROWS, instruction_rows

# All their questions are in `tiny-instructions` or `tiny-preferences` already, but for a handful.
FEW_QUESTIONS = {"animal_fact", "person_fact", "thing_fact", "opposite", "kind", "describe", "spell"}


def questions(*splits: list) -> set[tuple[str, str]]:
    return {(row["task"], row["key"]) for rows in splits for row in rows}


def wording(row: dict) -> str:
    """The prompt as training shows it, whichever set the row is from."""
    return row.get("prompt") or "\n\n### Input:\n".join(filter(None, (row["instruction"], row["input"])))


@pytest.fixture(scope="module")
def prompts():
    return prompt_rows(seed=0)


@pytest.fixture(scope="module")
def puzzles():
    return puzzle_rows(seed=0)


@pytest.fixture(scope="module")
def others():
    """What the other training sets ask."""
    return [*instruction_rows(seed=0).values(), *preference_rows(seed=0).values()]


def test_another_seed_gives_other_rows(monkeypatch, prompts):
    """That the same seed gives the same ones is tested on what is shipped, in tests/test_world.py."""
    monkeypatch.setitem(ROWS_PER_TASK, "train", 5)
    few = [row for row in prompt_rows.__wrapped__(seed=1)["train"] if row["task"] not in FEW_QUESTIONS]
    assert len(questions(few) & questions(prompts["train"])) < 0.2 * len(few)


def test_every_task_has_its_share_and_no_prompt_comes_twice(prompts, puzzles):
    for split, count in ROWS_PER_TASK.items():
        assert Counter(row["task"] for row in prompts[split]) == {task.__name__: count for task in TRAIN_ROWS}
        assert len({wording(row) for row in prompts[split]}) == len(prompts[split])
    for split, count in PUZZLES.items():
        assert {row["task"] for row in puzzles[split]} == {"sort_down"}
        assert len(questions(puzzles[split])) == len(puzzles[split]) == count


def test_no_question_of_a_test_is_asked_in_training(prompts, puzzles):
    for sets in (prompts, puzzles):
        assert not any(held_out(row["task"], row["key"]) for row in sets["train"])
        assert all(held_out(row["task"], row["key"]) for row in sets["test"])


def test_questions_are_new_in_any_wording_where_the_task_has_new_ones(prompts, others):
    for rows in prompts.values():
        again = Counter(task for task, _ in questions(rows) & questions(*others))
        assert set(again) <= FEW_QUESTIONS


def test_facts_come_in_other_words_where_there_are_others(prompts, others):
    said = {wording(row) for rows in others for row in rows}
    again = Counter(row["task"] for row in prompts["train"] if wording(row) in said)
    assert sum(again.values()) < 0.1 * len(prompts["train"])
    # Where the words come again, no others are left: these tasks have four for each of some hundred questions.
    assert set(again) <= {"animal_fact", "thing_fact", "describe"}


def test_no_puzzle_is_asked_anywhere_else(prompts, puzzles, others):
    assert questions(*puzzles.values()).isdisjoint(questions(*others, *prompts.values()))


def test_every_row_is_answered_rightly_by_its_own_output_and_not_by_its_neighbours(prompts, puzzles):
    for rows in (*prompts.values(), *puzzles.values()):
        assert [row for row in rows if not is_correct(row, row["output"])] == []
    sorting = puzzles["test"]
    assert not any(is_correct(row, other["output"]) for row, other in pairwise(sorting))


def test_some_rows_leave_their_material_to_the_input_column(prompts, puzzles):
    for rows in (prompts["train"], puzzles["train"]):
        assert 0.05 * len(rows) < sum(bool(row["input"]) for row in rows) < 0.5 * len(rows)
