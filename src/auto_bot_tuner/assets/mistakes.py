"""Wrong answers of many kinds: what a preference pair needs on its rejected side.

`Example.wrong` is one plausible mistake per question. Here are more of them, after those that a fine-tuned `tiny` makes
when it samples: neighbours swapped, an item said twice or left out, a word from elsewhere, a letter lost. A reward
model that is to correct a policy must have seen the mistakes that the policy makes.
"""

from __future__ import annotations

import re
from random import Random

from .examples import Example
from .facts import ANIMALS, NAMES, OPPOSITES, SIZES, THINGS, WORDS

LETTERS = "abcdefghijklmnoprstuvwy"


def mistake(example: Example, rng: Random) -> str:
    """An answer in the form of the right one, usually as long, and nearly always wrong: the gold scorer decides."""
    task = example.task
    if task in ("reverse", "sort_three", "sort_five", "sort_down", "order_by_size"):
        return _with_wrong_list(example, rng)
    if task == "spell":
        return _misspelt(example, rng)
    if task == "add":
        return _with_wrong_digit(example, rng)
    if task == "story":
        return _about_another(example, rng)
    if task == "describe":
        return _with_one_wrong_word(example, rng)
    if task in ("letter", "extreme", "opposite", "nth_word", "pick", "odd_one_out") and rng.random() < 0.3:
        return _with_another_word(example, rng)
    return example.wrong


def _with_wrong_list(example: Example, rng: Random) -> str:
    head, items = example.output.rstrip(".").split(": ")
    right = items.split(", ")
    others = {"reverse": WORDS, "order_by_size": list(SIZES)}.get(example.task) or [str(n) for n in range(10, 100)]
    i = rng.randrange(len(right) - 1)
    wrong = list(right)
    kind = rng.choice(("neighbours", "neighbours", "any two", "said twice", "another", "left out", "one more"))
    if kind == "neighbours":
        wrong[i], wrong[i + 1] = wrong[i + 1], wrong[i]
    elif kind == "any two":
        return example.wrong
    elif kind == "said twice":  # in the place of another
        wrong[i + 1] = wrong[i]
    elif kind == "another":
        wrong[rng.randrange(len(wrong))] = rng.choice(others)
    elif kind == "left out":
        del wrong[rng.randrange(len(wrong))]
    else:
        wrong.insert(i, rng.choice(right))
    return f"{head}: {', '.join(wrong)}."


def _misspelt(example: Example, rng: Random) -> str:
    head, letters = example.output.rstrip(".").split(" is spelled ")
    wrong = letters.split(" ")
    i = rng.randrange(1, len(wrong))  # the first letter is hardly ever the wrong one
    kind = rng.choice(("swapped", "another", "another", "left out", "doubled"))
    if kind == "swapped":
        wrong[i - 1], wrong[i] = wrong[i], wrong[i - 1]
    elif kind == "another":
        wrong[i] = rng.choice(LETTERS)
    elif kind == "left out":
        del wrong[i]
    else:
        wrong.insert(i, wrong[i])
    return f"{head} is spelled {' '.join(wrong)}."


def _with_wrong_digit(example: Example, rng: Random) -> str:
    """The two numbers are copied, so the mistake is in the sum: one digit of it, or a carry forgotten."""
    head, total = example.output.rstrip(".").rsplit(" ", 1)
    if rng.random() < 0.5:
        return example.wrong
    i = rng.randrange(1 if len(total) == 3 else 0, len(total))
    return f"{head} {total[:i]}{rng.choice('123456789')}{total[i + 1 :]}."


def _about_another(example: Example, rng: Random) -> str:
    """The story with one of the three things that it must tell of exchanged for another, wherever it is named."""
    given = example.key.split("/")
    i = rng.randrange(3)
    other = rng.choice([word for word in (NAMES, list(ANIMALS), list(THINGS))[i] if word not in given])
    story = re.sub(rf"\b{given[i]}\b", other, example.output)
    fitting = "an" if other[0] in "aeiou" else "a"
    return re.sub(rf"\b([Aa])n? {other}\b", lambda m: f"{m[1]}{fitting[1:]} {other}", story)


def _with_one_wrong_word(example: Example, rng: Random) -> str:
    """A description with one of the four facts exchanged: `wrong` has all four, which is easier to see."""
    right, wrong = example.output.split(" "), example.wrong.split(" ")
    different = [i for i, (a, b) in enumerate(zip(right, wrong, strict=True)) if a != b]
    for i in rng.sample(different, rng.choice((1, 1, 2))):
        right[i] = wrong[i]
    return " ".join(right)


def _with_another_word(example: Example, rng: Random) -> str:
    """A word that the question names ("The opposite of thin is thin."), or one from far away, in the answer's place."""
    head, answer = example.output.rstrip(".").rsplit(" ", 1)
    if example.task == "letter":
        return f"{head} {rng.choice(example.key.split(' ')[-1])}."
    if example.task == "extreme":
        return f"{head} {rng.choice((answer[::-1], str(rng.randint(10, 99))))}."
    if example.task == "opposite":
        return f"{head} {rng.choice((example.key, rng.choice(list(OPPOSITES))))}."
    return f"{head} {rng.choice(WORDS)}."
