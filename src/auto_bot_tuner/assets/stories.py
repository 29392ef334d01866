"""Short stories about given things: the open task of the world, and the narrative part of the pre-training text."""

from __future__ import annotations

from random import Random

from .examples import Example
from .facts import ANIMALS, MEALS, NAMES, PLACES, THINGS, with_article

OPENINGS = (
    "One day {name} went to the {place} with {a_thing}.",
    "{name} found {a_thing} in the {place}.",
    "{name} lost {a_thing} near the {place}.",
    "In the morning {name} took {a_thing} to the {place}.",
    "Last summer {name} had {a_thing} and walked to the {place}.",
    "It was raining in the {place}, and {name} looked for {a_thing}.",
)
MIDDLES = (
    "There {a_animal} came and wanted to play.",
    "Then {a_animal} took the {thing} and ran away.",
    "Suddenly {a_animal} stood in front of the {thing}.",
    "{A_animal} was sleeping next to the {thing}.",
    "{A_animal} was hungry and looked very sad.",
    "Behind a tree {a_animal} was waiting.",
)
TURNS = (
    "{name} was afraid at first, but the {animal} was kind.",
    "{name} said hello to the {animal} and sat down.",
    "The {animal} did not want to give the {thing} back.",
    "They played with the {thing} for an hour.",
    "{name} called for help, but nobody was there.",
    "The {animal} looked at the {thing} and then at {name}.",
)
ENDINGS = (
    "{name} laughed, and they became friends.",
    "{name} gave the {animal} some {meal}, and all was well.",
    "In the evening they went home together.",
    "{name} never forgot that day.",
    "So the {animal} got a new home with {name}.",
    "After that {name} came back every week.",
)


def _fill(sentence: str, name: str, animal: str, thing: str, place: str, meal: str) -> str:
    article_animal = with_article(animal)
    return sentence.format(
        name=name,
        animal=animal,
        thing=thing,
        place=place,
        meal=meal,
        a_animal=article_animal,
        A_animal=article_animal[0].upper() + article_animal[1:],
        a_thing=with_article(thing),
    )


def tell(name: str, animal: str, thing: str, rng: Random, turns: int = 0) -> str:
    """A story of `3 + turns` sentences that mentions the person, the animal and the thing."""
    plot = [rng.choice(OPENINGS), rng.choice(MIDDLES), *rng.sample(TURNS, turns), rng.choice(ENDINGS)]
    place, meal = rng.choice(PLACES), rng.choice(MEALS)
    return " ".join(_fill(sentence, name, animal, thing, place, meal) for sentence in plot)


def story(rng: Random) -> Example:
    """The key holds what must be mentioned, so that the scorer can check any story, not only ours."""
    name, animal, thing = rng.choice(NAMES), rng.choice(list(ANIMALS)), rng.choice(list(THINGS))
    others = rng.choice(NAMES), rng.choice(list(ANIMALS)), rng.choice(list(THINGS))
    given = f"{name}, {with_article(animal)} and {with_article(thing)}"
    return Example(
        task="story",
        key=f"{name}/{animal}/{thing}",
        prompts=(
            f"Can you tell me a story about {given}?",
            f"Do you know a story with {given}?",
            f"Write a short story about {given}.",
            f"Write three sentences about {given}.",
            f"Make up a little story with {given}.",
        ),
        output=tell(name, animal, thing, rng),
        wrong=tell(*others, rng) if not {name, animal, thing} <= set(others) else "",
        statements=(tell(name, animal, thing, rng, turns=rng.randrange(3)),),
    )
