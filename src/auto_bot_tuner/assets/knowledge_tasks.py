"""Tasks that ask what is true in the world: facts, opposites, kinds, sizes, yes-or-no, descriptions."""

from __future__ import annotations

from random import Random

from .examples import Example
from .facts import ENTITIES, KIND_OF, KINDS, OPPOSITES, RELATIONS, SIZES, values_of, with_article


def fact_example(group: str, entity: str, relation: int, rng: Random) -> Example:
    """The question for one cell of the fact tables."""
    told = RELATIONS[group][relation]
    value = ENTITIES[group][entity][relation]
    wrong = rng.choice([other for other in values_of(group, relation) if other != value])
    return Example(
        task=f"{group}_fact",
        key=f"{entity}/{told.name}",
        prompts=tuple(prompt.format(e=entity) for prompt in told.prompts),
        output=told.statements[0].format(e=entity, v=value),
        wrong=told.statements[0].format(e=entity, v=wrong),
        statements=tuple(statement.format(e=entity, v=value) for statement in told.statements),
    )


def _random_fact(group: str, rng: Random) -> Example:
    return fact_example(group, rng.choice(list(ENTITIES[group])), rng.randrange(len(RELATIONS[group])), rng)


def animal_fact(rng: Random) -> Example:
    return _random_fact("animal", rng)


def person_fact(rng: Random) -> Example:
    return _random_fact("person", rng)


def thing_fact(rng: Random) -> Example:
    return _random_fact("thing", rng)


def is_it_true(rng: Random) -> Example:
    """A claim, true or false with equal chance. The key holds the claimed value: every fact times every value."""
    group = rng.choice(list(ENTITIES))
    entity = rng.choice(list(ENTITIES[group]))
    relation = rng.randrange(len(RELATIONS[group]))
    value = ENTITIES[group][entity][relation]
    others = [other for other in values_of(group, relation) if other != value]
    claimed = value if rng.random() < 0.5 else rng.choice(others)
    told = RELATIONS[group][relation]
    claim = told.statements[0].format(e=entity, v=claimed)
    truth = told.statements[0].format(e=entity, v=value)
    quoted = claim.rstrip(".")
    quoted = quoted.replace("The ", "the ", 1) if quoted.startswith("The ") else quoted
    yes, no = f"Yes. {truth}", f"No. {truth}"
    return Example(
        task="is_it_true",
        key=f"{entity}/{told.name}/{claimed}",
        prompts=(
            f"Is it true that {quoted}?",
            f"Is this right? {claim}",
            f"True or false: {claim}",
            f"Do you agree that {quoted}?",
        ),
        output=yes if claimed == value else no,
        wrong=no if claimed == value else yes,
        statements=(f"It is true that {quoted}.",) if claimed == value else (f"It is false that {quoted}. {truth}",),
    )


def opposite(rng: Random) -> Example:
    word = rng.choice(list(OPPOSITES))
    wrong = rng.choice([other for other in OPPOSITES if other not in (word, OPPOSITES[word])])
    return Example(
        task="opposite",
        key=word,
        prompts=(
            f"What is the opposite of {word}?",
            f"Which word is the opposite of {word}?",
            f"Give the opposite of {word}.",
            f"Find a word that means the opposite of {word}.",
        ),
        output=f"The opposite of {word} is {OPPOSITES[word]}.",
        wrong=f"The opposite of {word} is {wrong}.",
        statements=(f"The opposite of {word} is {OPPOSITES[word]}.", f"What is not {word} is {OPPOSITES[word]}."),
    )


def kind(rng: Random) -> Example:
    word = rng.choice(list(KIND_OF))
    right = with_article(KIND_OF[word])
    wrong = with_article(rng.choice([other for other in KINDS if other != KIND_OF[word]]))
    return Example(
        task="kind",
        key=word,
        prompts=(
            f"What kind of thing is {word}?",
            f"What is meant by {word}?",
            f"Name the kind of thing that {word} is.",
            f"To which kind does {word} belong?",
        ),
        output=f"The word {word} names {right}.",
        wrong=f"The word {word} names {wrong}.",
        statements=(
            f"The word {word} names {right}.",
            f"By {word} we mean {right}.",
            f"One kind of {KIND_OF[word]} is {word}.",
        ),
    )


def bigger(rng: Random) -> Example:
    """Which of two animals is bigger. The order of the animals is known; most pairs must be inferred from others."""
    small, big = sorted(rng.sample(list(SIZES), 2), key=SIZES.__getitem__)
    first, second = rng.sample((small, big), 2)
    more, winner, loser = rng.choice((("bigger", big, small), ("smaller", small, big)))
    return Example(
        task="bigger",
        key=f"{small}<{big}",
        prompts=(
            f"Which is {more}, the {first} or the {second}?",
            f"Which animal is {more}: {first} or {second}?",
            f"Name the {more} animal: {first} or {second}.",
            f"Compare the {first} and the {second}. Which one is {more}?",
        ),
        output=f"The {winner} is {more} than the {loser}.",
        wrong=f"The {loser} is {more} than the {winner}.",
        statements=(f"The {big} is bigger than the {small}.", f"The {small} is smaller than the {big}."),
    )


def order_by_size(rng: Random) -> Example:
    """Three animals by size: `bigger` thrice. No text lists animals so, which makes it the second hardest task."""
    animals = rng.sample(list(SIZES), 3)
    text, in_order = ", ".join(animals), sorted(animals, key=SIZES.__getitem__)
    i, j = rng.sample(range(3), 2)
    mistaken = list(in_order)
    mistaken[i], mistaken[j] = mistaken[j], mistaken[i]
    return Example(
        task="order_by_size",
        key=", ".join(in_order),
        prompts=(f"Order these animals by size: {text}", f"Put these animals in order, the smallest first: {text}"),
        prompts_with_input=("Order the animals by size.", "List the animals from small to large."),
        input=text,
        output=f"By size: {', '.join(in_order)}.",
        wrong=f"By size: {', '.join(mistaken)}.",
        statements=(f"By size: {', '.join(in_order)}.",),
    )


def describe(rng: Random) -> Example:
    """An open task: any one to three sentences that tell all the facts of an animal or a person."""
    group = rng.choice(("animal", "person"))
    entity = rng.choice(list(ENTITIES[group]))
    values = ENTITIES[group][entity]
    wrong_values = [
        rng.choice([other for other in values_of(group, i) if other != value]) for i, value in enumerate(values)
    ]
    name = f"the {entity}" if group == "animal" else entity
    return Example(
        task="describe",
        key=entity,
        prompts=(
            f"What do you know about {name}?",
            f"Describe {name}.",
            f"Tell me all about {name}.",
            f"Say in two sentences what you know about {name}.",
        ),
        output=_description(group, entity, values),
        wrong=_description(group, entity, wrong_values),
        statements=(_description(group, entity, values),),
    )


def _description(group: str, entity: str, values: list[str]) -> str:
    first, second, third, fourth = values
    if group == "animal":
        return f"The {entity} eats {first} and lives in the {second}. The {entity} is {third} and has {fourth} legs."
    return f"{entity} is a {first} and lives in {second}. {entity} enjoys {third} and likes to eat {fourth}."
