"""`tiny-preferences`: two responses to one question, of which a judge prefers one.

    question -> the better response and, with one thing wrong, the worse -> gold scorer -> a judge who errs -> pair

Each pair differs in one dimension, so that a reward model can be asked what it has learned, dimension by dimension.
Length is no help: what makes a response longer is liked as often as it is disliked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from auto_bot_tuner.data.formats import canonical

from . import mistakes
from .examples import Example, draw
from .gold import COURTESIES, gold_score
from .mistakes import mistake
from .world import TRAIN_ROWS, Row, dressed, row_of

TRAIN_PAIRS = 9000
TEST_PAIRS = 1000

# How sure the judge is of a gap in gold score: P(the better one is chosen) = sigmoid(SHARPNESS * gap), the model of
# Bradley and Terry. A gap of 0.5 is judged wrongly once in 13 times, a gap of 1 once in 150 times.
SHARPNESS = 5.0

DO_NOT_KNOW = ("I do not know.", "I cannot say.", "I am not sure about that.", "That is hard to say.")
ENDLESS_WORDS = 40


class Side(NamedTuple):
    """One response before it is judged."""

    text: str
    ended: bool = True  # False: it was cut off, in the middle of a word or a thought


Sides = tuple[Side, Side]  # the better one, the worse one: the gold scorer checks that


def _polite(answer: str, rng: Random) -> str:
    """With a courtesy. People have favourites: most of the time it is the same one."""
    return f"Sure! {answer}" if rng.random() < 0.75 else dressed(answer, "polite", rng)


def _manner(rng: Random) -> Callable[[str], str]:
    """A way to dress an answer, the same for both sides: what they share cannot be what they are judged by."""
    habit, seed = rng.choices(("plain", "polite", "filler"), weights=(0.25, 0.7, 0.05))[0], rng.getrandbits(32)
    if habit == "polite":
        return lambda answer: _polite(answer, Random(seed))
    return lambda answer: dressed(answer, habit, Random(seed))


def _anything(rng: Random) -> str:
    """The right answer to some other question."""
    return draw(rng.choice(list(TRAIN_ROWS)), rng).output


# --- what can be wrong with a response: its name and how such a pair is made -----------------------------------------


def wrong(example: Example, rng: Random) -> Sides:
    """Another value, as plausible: only who knows, or does the work, can tell."""
    manner = _manner(rng)
    return Side(manner(example.output)), Side(manner(example.wrong))


def slip(example: Example, rng: Random) -> Sides:
    """A mistake that shows on the face of the answer, or beside the words of the question."""
    manner = _manner(rng)
    return Side(manner(example.output)), Side(manner(mistakes.slip(example, rng)))


def beside_the_question(example: Example, rng: Random) -> Sides:
    """True, but not what was asked."""
    manner = _manner(rng)
    return Side(manner(example.output)), Side(manner(mistakes.beside_the_question(example, rng)))


def wrong_but_polite(example: Example, rng: Random) -> Sides:
    """The truth, plainly said, is worth more than a courteous mistake."""
    return Side(example.output), Side(_polite(mistake(example, rng), rng))


def wrong_but_brief(example: Example, rng: Random) -> Sides:
    """The truth after a filler, or said twice, is worth more than a mistake in good form."""
    return Side(dressed(example.output, rng.choice(("filler", "repeated")), rng)), Side(mistake(example, rng))


def not_polite(example: Example, rng: Random) -> Sides:
    """Right on both sides, in equal words; one of them says something kind."""
    habit, seed = rng.choices(("plain", "filler"), weights=(0.9, 0.1))[0], rng.getrandbits(32)
    answer = dressed(example.output, habit, Random(seed))
    return Side(_polite(answer, rng)), Side(answer)


def rude(example: Example, rng: Random) -> Sides:
    answer = example.output if rng.random() < 0.8 else mistake(example, rng)
    return Side(_manner(rng)(answer)), Side(dressed(answer, "rude", rng))


def filler(example: Example, rng: Random) -> Sides:
    answer = example.output if rng.random() < 0.8 else mistake(example, rng)
    manner = _manner(rng)
    return Side(manner(answer)), Side(manner(dressed(answer, "filler", rng)))


def repeated(example: Example, rng: Random) -> Sides:
    answer = example.output if rng.random() < 0.8 else mistake(example, rng)
    manner = _manner(rng)
    return Side(manner(answer)), Side(manner(dressed(answer, "repeated", rng)))


def rambling(example: Example, rng: Random) -> Sides:
    """The answer, and then the answer to a question that nobody asked."""
    manner = _manner(rng)
    return Side(manner(example.output)), Side(f"{manner(example.output)} {_anything(rng)}")


def endless(example: Example, rng: Random) -> Sides:
    """It does not stop: sentence after sentence, until it is cut off."""
    manner = _manner(rng)
    words = manner(example.output).split(" ")
    while len(words) < ENDLESS_WORDS:
        words += _anything(rng).split(" ")
    return Side(manner(example.output)), Side(" ".join(words[: rng.randint(ENDLESS_WORDS // 2, ENDLESS_WORDS)]), False)


def unfinished(example: Example, rng: Random) -> Sides:
    """The right answer, broken off before its end."""
    manner = _manner(rng)
    words = manner(example.output).split(" ")
    return Side(" ".join(words)), Side(" ".join(words[: rng.randint(1, len(words) - 1)]).rstrip("."), False)


def no_answer(example: Example, rng: Random) -> Sides:
    """A shrug, a courtesy without an answer, or the question said back."""
    answers = (rng.choice(DO_NOT_KNOW), rng.choice(COURTESIES), rng.choice(example.prompts))
    manner = _manner(rng)
    return Side(manner(example.output)), Side(rng.choice(answers))


# Shares of the pairs. In the first five the rejected side is not right, or not what was asked.
CATEGORIES: dict[Callable[[Example, Random], Sides], float] = {
    wrong: 0.04,
    slip: 0.22,
    beside_the_question: 0.16,
    wrong_but_polite: 0.02,
    wrong_but_brief: 0.02,
    not_polite: 0.19,
    rude: 0.06,
    filler: 0.05,
    repeated: 0.05,
    rambling: 0.05,
    endless: 0.03,
    unfinished: 0.06,
    no_answer: 0.05,
}

# Both sides are dressed alike and one of them is not right: what these are ranked by is truth, nothing else.
CORRECTNESS = ("wrong", "slip", "beside_the_question")


# --- the judge ------------------------------------------------------------------------------------------------------


def is_misjudged(gap: float, rng: Random) -> bool:
    """Whether the judge prefers the worse of two responses that are `gap` apart."""
    return rng.random() > 1 / (1 + math.exp(-SHARPNESS * gap))


def pair_of(example: Example, category: Callable[[Example, Random], Sides], noisy: bool, rng: Random) -> Row | None:
    """A row of the data set, or None where the worse response came out as good as the better one."""
    question = row_of(example, rng)
    better, worse = category(example, rng)
    gap = gold_score(question, better.text, better.ended) - gold_score(question, worse.text, worse.ended)
    if gap <= 0:
        return None
    chosen, rejected = (worse, better) if noisy and is_misjudged(gap, rng) else (better, worse)
    messages = canonical(question, "alpaca", "a question of the world")[1]["messages"]
    return {
        "prompt": messages[0]["content"],
        "chosen": chosen.text,
        "rejected": rejected.text,
        "category": category.__name__,
        "task": example.task,
        "key": example.key,
        "output": example.output,
    }


def _rows(count: int, test: bool, rng: Random) -> list[Row]:
    """Every category in its share, and in it every task as often as any other; no pair twice."""
    rows: dict[tuple[str, ...], Row] = {}
    total = 0.0
    for category, share in CATEGORIES.items():
        tasks = [mistakes.TASKS[name] for name in mistakes.CARELESS_TASKS] if category is slip else list(TRAIN_ROWS)
        total += share
        drawn = 0
        while len(rows) < round(total * count):
            row = pair_of(draw(tasks[drawn % len(tasks)], rng, test), category, noisy=not test, rng=rng)
            drawn += 1
            if row is not None:
                rows.setdefault((row["prompt"], *sorted((row["chosen"], row["rejected"]))), row)
    return list(rows.values())


def preference_rows(seed: int = 0) -> dict[str, list[Row]]:
    """`{"train": pairs, "test": pairs}`; the questions of the test pairs are the held-out ones, as in the instructions.

    The judge of the training pairs errs, as people do; the test pairs are in the true order, so that a reward model
    is measured against the truth and not against the judge.
    """
    rng = Random(seed)
    rows = {"train": _rows(TRAIN_PAIRS, False, rng), "test": _rows(TEST_PAIRS, True, rng)}
    for pairs in rows.values():
        rng.shuffle(pairs)
    return rows
