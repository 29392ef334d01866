"""`tiny-prompts` and `tiny-puzzles`: questions for a policy to answer by itself, while a reward says how well it did.

    tasks -> questions that no other training set asks -> rows of `tiny-prompts`, and of one hard task `tiny-puzzles`

What the policy imitated in fine-tuning it could say by heart, and what its reward model was trained on that one knows
better than the rest; so both come here with new questions. The tests ask held-out questions, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from random import Random

from .examples import Task
from .preferences import preference_rows
from .word_tasks import sort_down
from .world import TRAIN_ROWS, Row, distinct_rows, instruction_rows

ROWS_PER_TASK = {"train": 100, "test": 15}
PUZZLES = {"train": 1500, "test": 200}
# A pool so many times as large as what is wanted, to choose the newest questions from.
CHOICE = 5


class Asked:
    """What other sets ask: questions by task and key, and the words that they are asked in."""

    def __init__(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        self.questions = {(row["task"], row["key"]) for row in rows}
        self.wordings = {row["prompt"] if "prompt" in row else row["instruction"] for row in rows}

    def familiarity(self, row: Row) -> int:
        """0: a new question; 1: one that is asked elsewhere, but in other words; 2: in the same words."""
        if (row["task"], row["key"]) not in self.questions:
            return 0
        return 2 if row["instruction"] in self.wordings else 1

    def newest_rows(self, task: Task, count: int, test: bool, rng: Random) -> list[Row]:
        """`count` rows of a task, new questions first.

        Facts and opposites are few: the training sets ask them all, so these come again, in other words where there
        are others. Everything that is worked out has keys enough.
        """
        return sorted(distinct_rows(task, CHOICE * count, test, rng), key=self.familiarity)[:count]


@cache
def prompt_rows(seed: int = 0) -> dict[str, list[Row]]:
    """`{"train": rows, "test": rows}` of all tasks alike; `output` is the plain answer, for verifiers."""
    rng, asked = Random(seed), Asked(_asked_in_training_sets(seed))
    rows = {}
    for split, count in ROWS_PER_TASK.items():
        rows[split] = [row for task in TRAIN_ROWS for row in asked.newest_rows(task, count, split == "test", rng)]
        rng.shuffle(rows[split])
    return rows


def puzzle_rows(seed: int = 0) -> dict[str, list[Row]]:
    """`{"train": rows, "test": rows}` of `sort_down`: 44 million questions, so none need be remembered."""
    prompts = prompt_rows(seed)
    asked = Asked([*_asked_in_training_sets(seed), *prompts["train"], *prompts["test"]])
    rng = Random(seed)
    return {split: asked.newest_rows(sort_down, count, split == "test", rng) for split, count in PUZZLES.items()}


@cache
def _asked_in_training_sets(seed: int) -> list[Row]:
    instructions, preferences = instruction_rows(seed), preference_rows(seed)
    return [row for rows in (instructions, preferences) for split in rows.values() for row in split]
