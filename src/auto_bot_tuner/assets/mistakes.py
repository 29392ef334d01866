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

LETTERS = "abcdefghijklmnoprstuvwy"
# Where a slip shows on the face of the answer: lists and letters. Of other answers nothing remains but another value.
CARELESS_TASKS = ("reverse", "sort_three", "sort_five", "sort_down", "order_by_size", "spell")
TASKS: dict[str, Task] = {task.__name__: task for task in TRAIN_ROWS}


def mistake(example: Example, rng: Random) -> str:
    """Any of the three kinds, usually about as long as the right answer. That it is wrong, the gold scorer decides."""
    if example.task in CARELESS_TASKS:
        return slip(example, rng)
    return beside_the_question(example, rng) if rng.random() < 0.7 else example.wrong


def slip(example: Example, rng: Random) -> str:
    """A mistake of carelessness in a list or a spelling: an item twice or left out, two neighbours exchanged."""
    return _misspelt(example, rng) if example.task == "spell" else _list_with_a_slip(example, rng)


def beside_the_question(example: Example, rng: Random) -> str:
    """A right answer, but to another question: about something else, or about another side of the same thing."""
    if example.task.endswith("_fact") and rng.random() < 0.5:
        return _another_fact(example, rng)
    task = TASKS[example.task] if rng.random() < 0.4 else rng.choice(list(TASKS.values()))
    return draw(task, rng).output


# --- slips ----------------------------------------------------------------------------------------------------------


def _list_with_a_slip(example: Example, rng: Random) -> str:
    head, items = example.output.rstrip(".").split(": ")
    right = items.split(", ")
    others = {"reverse": WORDS, "order_by_size": list(SIZES)}.get(example.task) or [str(n) for n in range(10, 100)]
    i = rng.randrange(len(right) - 1)
    wrong = list(right)
    kind = rng.choice(("neighbours", "said again", "another", "left out", "one more", "the wrong way round"))
    if kind == "neighbours":
        wrong[i], wrong[i + 1] = wrong[i + 1], wrong[i]
    elif kind == "said again":  # in the place of the next
        wrong[i + 1] = wrong[i]
    elif kind == "another":
        wrong[rng.randrange(len(wrong))] = rng.choice(others)
    elif kind == "left out":
        del wrong[rng.randrange(len(wrong))]
    elif kind == "one more":
        wrong.insert(i, rng.choice(right))
    else:
        wrong.reverse()
    return f"{head}: {', '.join(wrong)}."


def _misspelt(example: Example, rng: Random) -> str:
    head, letters = example.output.rstrip(".").split(" is spelled ")
    wrong = letters.split(" ")
    i = rng.randrange(1, len(wrong))  # the first letter is hardly ever the wrong one
    kind = rng.choice(("neighbours", "another", "left out", "said again"))
    if kind == "neighbours":
        wrong[i - 1], wrong[i] = wrong[i], wrong[i - 1]
    elif kind == "another":
        wrong[i] = rng.choice(LETTERS)
    elif kind == "left out":
        del wrong[i]
    else:
        wrong.insert(i, wrong[i])
    return f"{head} is spelled {' '.join(wrong)}."


# --- answers to something else --------------------------------------------------------------------------------------


def _another_fact(example: Example, rng: Random) -> str:
    """Where the cow lives, when it was asked what it eats. Never a fact that is held out, or the answer would leak."""
    group, (entity, asked) = example.task.removesuffix("_fact"), example.key.split("/")
    others = [i for i, relation in enumerate(RELATIONS[group]) if relation.name != asked]
    facts = [fact_example(group, entity, i, rng) for i in others]
    told = [fact.output for fact in facts if not held_out(fact.task, fact.key)]
    return rng.choice(told) if told else draw(TASKS[example.task], rng).output
