"""The unit of the bundled world: one checkable question, and how combinations of it are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Example:
    """One question of one task, with everything that the text, the data sets and the scorer need of it.

    `prompts[:2]` are also asked in the dialogues of the pre-training text; the others are seen in instructions only,
    so that fine-tuning has paraphrases to generalise over. `statements` say the same in plain prose, the form in
    which the base model comes to know it. `wrong` is a plausible mistake in the form of the answer: quizzes need it
    now, preferences later.
    """

    task: str
    key: str  # what is asked, in a canonical form: equal keys are the same question
    prompts: tuple[str, ...]
    output: str
    wrong: str
    statements: tuple[str, ...]
    input: str = ""  # the material of the question, where a prompt leaves it to the `input` column
    prompts_with_input: tuple[str, ...] = ()


Task = Callable[[Random], Example]

# Per thousand. Tasks with few keys give away a larger share, so that the test set has enough different questions.
HELD_OUT_PER_THOUSAND = 80
SMALL_TASKS = {
    "animal_fact": 180,
    "person_fact": 180,
    "thing_fact": 250,
    "opposite": 200,
    "kind": 180,
    "spell": 120,
    "letter": 100,
    "describe": 250,
}


def held_out(task: str, key: str) -> bool:
    """Whether this question belongs to the test set: decided by the key alone, so no list is needed to agree on it.

    A hash and not a random draw, because text, training rows and test rows are made at different times by different
    loops. Python's own `hash` is salted per process; sha1 is the same everywhere.
    """
    digest = hashlib.sha1(f"{task}|{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 1000 < SMALL_TASKS.get(task, HELD_OUT_PER_THOUSAND)


def draw(task: Task, rng: Random, test: bool = False) -> Example:
    """A random example from the wanted side of the split."""
    while True:
        example = task(rng)
        if held_out(example.task, example.key) == test:
            return example
