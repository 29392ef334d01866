"""`tiny-preferences` keeps its word: the true order is the gold scorer's, the judge errs as it says, and nothing but
reading helps."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest

from auto_bot_tuner.assets import mistakes
from auto_bot_tuner.assets.examples import draw, held_out
from auto_bot_tuner.assets.gold import COURTESIES, FILLERS, RUDE_REMARKS, gold_components, gold_score, is_correct
from auto_bot_tuner.assets.mistakes import TASKS
from auto_bot_tuner.assets.preferences import CATEGORIES, SHARPNESS, is_misjudged, preference_rows
from auto_bot_tuner.assets.world import instruction_rows

CUT_OFF = ("unfinished", "endless")  # their rejected side was cut off: no end token in the policy's own words


@pytest.fixture(scope="module")
def pairs():
    return preference_rows(seed=0)


def gap(row: dict) -> float:
    return gold_score(row, row["chosen"]) - gold_score(row, row["rejected"], row["category"] not in CUT_OFF)


def test_same_seed_gives_the_same_pairs_and_another_seed_others(pairs):
    assert preference_rows(seed=0) == pairs
    assert preference_rows(seed=1)["test"] != pairs["test"]


def test_a_prompt_is_what_training_makes_of_an_instruction_row(pairs):
    """The same words as a row of `tiny-instructions` has after rendering, so that SFT and preferences fit together."""
    from auto_bot_tuner.data.formats import canonical

    asked = {
        canonical(row, "auto", "a row")[1]["messages"][0]["content"]
        for rows in instruction_rows(seed=0).values()
        for row in rows
    }
    few_keys = [row for row in pairs["train"] if row["task"] in ("animal_fact", "thing_fact", "opposite", "kind")]
    assert sum(row["prompt"] in asked for row in few_keys) > 0.3 * len(few_keys)
    assert sum("\n\n### Input:\n" in row["prompt"] for row in pairs["train"]) > 0.1 * len(pairs["train"])


def test_no_question_of_the_test_pairs_is_asked_in_training(pairs):
    assert not any(held_out(row["task"], row["key"]) for row in pairs["train"])
    assert all(held_out(row["task"], row["key"]) for row in pairs["test"])
    assert {row["prompt"] for row in pairs["train"]}.isdisjoint(row["prompt"] for row in pairs["test"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_category_and_every_task_has_its_share_and_no_pair_comes_twice(pairs, split):
    rows = pairs[split]
    by_category, by_task = Counter(row["category"] for row in rows), Counter(row["task"] for row in rows)
    for category, share in CATEGORIES.items():
        assert by_category[category.__name__] == pytest.approx(share * len(rows), abs=1)
    assert set(by_task) == set(TASKS)
    assert min(by_task.values()) > 0.65 * len(rows) / len(TASKS)
    assert len({(row["prompt"], *sorted((row["chosen"], row["rejected"]))) for row in rows}) == len(rows)


def test_the_judge_of_the_test_pairs_is_right(pairs):
    assert all(gap(row) > 0 for row in pairs["test"])


def test_the_judge_of_the_training_pairs_errs_by_the_size_of_the_gap(pairs):
    """Bradley and Terry: sigmoid(5 · 0.5) = 92 % right at a gap of half a point, 99 % at a whole one."""
    for name, size, right in (("not_polite", 0.5, 0.924), ("slip", 1.0, 0.993)):
        rows = [row for row in pairs["train"] if row["category"] == name and abs(gap(row)) == size]
        assert len(rows) > 400
        share = sum(gap(row) > 0 for row in rows) / len(rows)
        assert share == pytest.approx(right, abs=3 * math.sqrt(right * (1 - right) / len(rows)))
    rng = Random(0)
    draws = [is_misjudged(0.2, rng) for _ in range(4000)]
    assert sum(draws) / 4000 == pytest.approx(1 / (1 + math.exp(0.2 * SHARPNESS)), abs=0.03)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("length", [len, lambda text: len(text.split())], ids=["characters", "words"])
def test_length_alone_does_not_tell_which_is_better(pairs, split, length):
    lengths = [(length(row["chosen"]), length(row["rejected"])) for row in pairs[split]]
    longer = sum((chosen > rejected) + 0.5 * (chosen == rejected) for chosen, rejected in lengths) / len(lengths)
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    assert 0.45 < longer < 0.55
    assert 0.45 < sum(unequal) / len(unequal) < 0.55


def different(row: dict) -> set[str]:
    """The dimensions of the gold score in which the two sides differ, as texts (that is, but for the cut)."""
    chosen, rejected = gold_components(row, row["chosen"]), gold_components(row, row["rejected"])
    return {name for name in chosen if chosen[name] != rejected[name]}


@pytest.mark.parametrize(
    ("category", "dimensions"),
    [
        ("not_polite", {"polite"}),
        ("rude", {"polite"}),
        ("filler", {"concise"}),
        ("repeated", {"not_repeated"}),
        ("wrong_but_polite", {"correct", "polite"}),
    ],
)
def test_a_category_names_the_dimension_in_which_its_pairs_differ(pairs, category, dimensions):
    rows = [row for row in pairs["test"] if row["category"] == category]
    # A story said twice is also too long; the same filler twice is a repetition.
    assert sum(different(row) == dimensions for row in rows) > 0.6 * len(rows)
    assert sum(different(row) >= dimensions for row in rows) > 0.95 * len(rows)


def test_right_and_wrong_wear_the_same_dress(pairs):
    """Else a reward model could call an answer wrong by its manners."""
    manners = COURTESIES + FILLERS + RUDE_REMARKS
    for row in pairs["test"]:
        if row["category"] in ("wrong", "slip", "beside_the_question"):
            said = [[manner in row[side] for manner in manners] for side in ("chosen", "rejected")]
            assert said[0] == said[1], row
            assert "correct" in different(row)


def test_politeness_neither_redeems_nor_condemns(pairs):
    """Where right and wrong are at stake, the courteous side loses as it may win elsewhere."""
    polite_and_wrong = [row for row in pairs["test"] if row["category"] == "wrong_but_polite"]
    assert all(gold_components(row, row["rejected"])["polite"] == 0.5 for row in polite_and_wrong)
    assert not any(gold_components(row, row["chosen"])["polite"] for row in polite_and_wrong)


@pytest.mark.parametrize("name", TASKS)
def test_mistakes_are_many_and_nearly_always_wrong(name):
    rng = Random(1)
    for make in (mistakes.mistake, mistakes.beside_the_question):
        wrong, seen = 0, set()
        for _ in range(60):
            example = draw(TASKS[name], rng)
            answer = make(example, rng)
            row = {"task": name, "key": example.key, "output": example.output}
            wrong += not is_correct(row, answer)
            seen.add(answer)
        assert wrong >= 45, (name, make.__name__)
        assert len(seen) > 15


def test_no_mistake_gives_a_held_out_fact_away(pairs):
    """Another fact of the same animal is a fine wrong answer, unless the test asks for it."""
    told = {row["output"] for row in pairs["test"] if row["task"].endswith("_fact")}
    besides = [row for row in pairs["train"] if row["category"] == "beside_the_question"]
    assert not any(fact in row["rejected"] for row in besides for fact in told)
