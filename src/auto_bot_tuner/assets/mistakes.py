"""Wrong answers of many kinds: what a preference pair needs on its rejected side.

`Example.wrong` is a plausible mistake: another value, which only knowledge or work tells from the right one. Here are
the mistakes that a fine-tuned `tiny` makes beside those when it samples: slips, and answers to something else. A
reward model that is to correct a policy must have seen the mistakes that the policy makes.
"""

from __future__ import annotations

from random import Random

from .examples import Example, Task, draw, held_out
from .facts import RELATIONS, SIZES, WORDS
from .knowledge_tasks import fact_example
from .world import TRAIN_ROWS

# What may stray into a list or a spelling.
NUMBERS = [str(number) for number in range(10, 100)]
OTHER_ITEMS = {"reverse": WORDS, "order_by_size": list(SIZES), "spell": list("abcdefghijklmnoprstuvwy")}
# Where a slip shows on the face of the answer: lists and letters. Of other answers nothing remains but another value.
CARELESS_TASKS = ("reverse", "sort_three", "sort_five", "sort_down", "order_by_size", "spell")
TASKS: dict[str, Task] = {task.__name__: task for task in TRAIN_ROWS}


def mistake(example: Example, rng: Random) -> str:
    """Any of the three kinds, usually about as long as the right answer. That it is wrong, the gold scorer decides."""
    if example.task in CARELESS_TASKS:
        return slip(example, rng)
    return beside_the_question(example, rng) if rng.random() < 0.7 else example.wrong


def slip(example: Example, rng: Random) -> str:
    """A list or a spelling with one or two mistakes of carelessness, or a list the wrong way round."""
    between, separator = (" is spelled ", " ") if example.task == "spell" else (": ", ", ")
    head, listed = example.output.rstrip(".").split(between)
    items = listed.split(separator)
    if example.task != "spell" and rng.random() < 0.15:
        items.reverse()
    else:
        for _ in range(rng.choice((1, 2))):
            _slip_once(items, OTHER_ITEMS.get(example.task, NUMBERS), rng)
    return f"{head}{between}{separator.join(items)}."


def _slip_once(items: list[str], others: list[str], rng: Random) -> None:
    """Change the list in one place."""
    i = rng.randrange(len(items) - 1)
    kind = rng.choice(("neighbours", "said again", "another", "left out", "one more"))
    if kind == "neighbours":
        items[i], items[i + 1] = items[i + 1], items[i]
    elif kind == "said again":  # in the place of the next
        items[i + 1] = items[i]
    elif kind == "another":
        items[rng.randrange(len(items))] = rng.choice(others)
    elif kind == "left out" and len(items) > 2:
        del items[rng.randrange(len(items))]
    else:
        items.insert(i, rng.choice(items))


def beside_the_question(example: Example, rng: Random) -> str:
    """A right answer, but to another question: about something else, or about another side of the same thing."""
    if example.task.endswith("_fact") and rng.random() < 0.5:
        return _another_fact(example, rng)
    task = TASKS[example.task] if rng.random() < 0.4 else rng.choice(list(TASKS.values()))
    return draw(task, rng).output


def _another_fact(example: Example, rng: Random) -> str:
    """Where the cow lives, when it was asked what it eats. Never a fact that is held out, or the answer would leak."""
    group, (entity, asked) = example.task.removesuffix("_fact"), example.key.split("/")
    others = [i for i, relation in enumerate(RELATIONS[group]) if relation.name != asked]
    facts = [fact_example(group, entity, i, rng) for i in others]
    told = [fact.output for fact in facts if not held_out(fact.task, fact.key)]
    return rng.choice(told) if told else draw(TASKS[example.task], rng).output
