"""What is true in the bundled world: the tables, read and indexed.

Everything else in `assets/` (tasks, text, gold scorer) asks this file. What it says of animals and things is common
knowledge; the people are invented, so that no outside knowledge helps: a model can only have *read* about them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from . import tables


@dataclass(frozen=True)
class Relation:
    """A kind of fact. `{e}` is the entity, `{v}` the value; the first statement is also the form of the answer."""

    name: str
    statements: tuple[str, ...]
    prompts: tuple[str, ...]


RELATIONS: dict[str, tuple[Relation, ...]] = {
    "animal": (
        Relation(
            "food",
            ("The {e} eats {v}.", "The food of the {e} is {v}.", "The {e} likes to eat {v}."),
            (
                "What does the {e} eat?",
                "What is the food of the {e}?",
                "Name the food that the {e} eats.",
                "Tell me what the {e} likes to eat.",
            ),
        ),
        Relation(
            "home",
            ("The {e} lives in the {v}.", "The home of the {e} is the {v}.", "You find the {e} in the {v}."),
            (
                "Where does the {e} live?",
                "Where do you find the {e}?",
                "Name the home of the {e}.",
                "Tell me where the {e} lives.",
            ),
        ),
        Relation(
            "colour",
            ("The colour of the {e} is {v}.", "The {e} is {v}.", "The {e} has the colour {v}."),
            (
                "What is the colour of the {e}?",
                "What colour is the {e}?",
                "Name the colour of the {e}.",
                "Tell me which colour the {e} has.",
            ),
        ),
        Relation(
            "legs",
            ("The {e} has {v} legs.", "The number of legs of the {e} is {v}.", "The {e} moves on {v} legs."),
            (
                "How many legs does the {e} have?",
                "What is the number of legs of the {e}?",
                "Count the legs of the {e}.",
                "Tell me how many legs the {e} has.",
            ),
        ),
    ),
    "person": (
        Relation(
            "job",
            ("The job of {e} is {v}.", "{e} is a {v}.", "{e} works as a {v}."),
            ("What is the job of {e}?", "What work does {e} do?", "Name the job of {e}.", "Tell me what {e} works as."),
        ),
        Relation(
            "town",
            ("{e} lives in {v}.", "The home town of {e} is {v}.", "{e} has a house in {v}."),
            (
                "Where does {e} live?",
                "What is the home town of {e}?",
                "Name the town of {e}.",
                "Tell me in which town {e} lives.",
            ),
        ),
        Relation(
            "hobby",
            ("The hobby of {e} is {v}.", "{e} enjoys {v}.", "On Sundays {e} goes for {v}."),
            (
                "What is the hobby of {e}?",
                "What does {e} enjoy?",
                "Name the hobby of {e}.",
                "Tell me what {e} enjoys doing.",
            ),
        ),
        Relation(
            "meal",
            ("The favourite food of {e} is {v}.", "{e} likes to eat {v}.", "For dinner {e} wants {v}."),
            (
                "What is the favourite food of {e}?",
                "What does {e} like to eat?",
                "Name the favourite food of {e}.",
                "Tell me what {e} wants for dinner.",
            ),
        ),
    ),
    "thing": (
        Relation(
            "material",
            ("The {e} is made of {v}.", "They make the {e} from {v}.", "The material of the {e} is {v}."),
            (
                "What is the {e} made of?",
                "What is the material of the {e}?",
                "Name the material of the {e}.",
                "Tell me what the {e} is made from.",
            ),
        ),
        Relation(
            "place",
            ("The {e} is kept in the {v}.", "You find the {e} in the {v}.", "The place of the {e} is the {v}."),
            (
                "Where is the {e} kept?",
                "Where do you find the {e}?",
                "Name the place of the {e}.",
                "Tell me where the {e} is.",
            ),
        ),
    ),
}


def _table(text: str) -> dict[str, list[str]]:
    rows = (line.split(":") for line in text.strip().splitlines())
    return {name.strip(): [value.strip() for value in values.split(",")] for name, values in rows}


def _people() -> dict[str, list[str]]:
    """Draw each person's facts independently, so that nobody's job tells their town.

    The seed is fixed: another seed of the data asks other questions of the same world.
    """
    rng = random.Random(1)
    return {name: [rng.choice(values) for values in (JOBS, TOWNS, HOBBIES, MEALS)] for name in NAMES}


NAMES = tables.NAMES_TABLE.split()
JOBS = tables.JOBS_TABLE.split()
TOWNS = tables.TOWNS_TABLE.split()
HOBBIES = tables.HOBBIES_TABLE.split()
MEALS = tables.MEALS_TABLE.split()
PLACES = tables.PLACES_TABLE.split()
ANIMALS = _table(tables.ANIMAL_TABLE)
THINGS = _table(tables.THING_TABLE)
PEOPLE = _people()
SIZES = {name: size for size, name in enumerate(ANIMALS)}
ENTITIES = {
    "animal": ANIMALS,
    "person": PEOPLE,
    "thing": {name: values[1:] for name, values in THINGS.items()},
}

KINDS: dict[str, list[str]] = {"animal": list(ANIMALS), **_table(tables.MORE_KINDS_TABLE)}
for _name, (_kind, *_) in THINGS.items():
    KINDS.setdefault(_kind, []).append(_name)
del KINDS["object"]  # "A map is an object" teaches nothing
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}

OPPOSITES: dict[str, str] = {}
for _pair in tables.OPPOSITE_TABLE.replace("\n", " ").split(","):
    _left, _right = _pair.split()
    OPPOSITES.setdefault(_left, _right)
    OPPOSITES.setdefault(_right, _left)

WORDS = sorted({*KIND_OF, *THINGS})  # the nouns that lists are made of
SPELLED = sorted({*WORDS, *OPPOSITES, *JOBS, *MEALS, *PLACES})  # the words whose letters the world speaks of


def values_of(group: str, relation: int) -> list[str]:
    """All values that a relation takes, each once: the pool for plausible wrong answers."""
    return sorted({values[relation] for values in ENTITIES[group].values()})


def with_article(word: str) -> str:
    """`apple` -> `an apple`."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
