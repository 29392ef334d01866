"""The gold scorer: in the bundled world, what is right and what is liked can be computed.

Real projects have no such thing; they have people, or a reward model that imitates people. Here the truth is at hand,
so that one can *see* what a learned reward gets wrong, and what a policy does with the mistake. No training stage
reads it except where a page says so: it stands for the judgement that a real project could not afford for every
sample.
"""

from __future__ import annotations

import re

from .facts import ENTITIES, values_of

OPENING_COURTESIES = ("Sure!", "Of course!")
CLOSING_COURTESIES = ("I hope this helps.", "Have a nice day!")
COURTESIES = OPENING_COURTESIES + CLOSING_COURTESIES
FILLERS = ("Well, let me think.", "That is a good question.", "Hmm, let me see.")
RUDE_REMARKS = ("What a silly question.", "Everybody knows that.", "Do not ask me again.")

WORDS_BEYOND_THE_ANSWER = 8  # a courtesy or two fit in; a ramble does not
MOST_SENTENCES = 3  # of an open answer
SCORE_RANGE = (-2.0, 1.5)


def sentences_of(text: str) -> list[str]:
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]


def normalised(text: str) -> str:
    """What does not count: case, spacing, a full stop at the end."""
    return " ".join(text.lower().split()).rstrip(".")


def plain_answer(response: str) -> str:
    """The response without its manners: courtesies, fillers, rude remarks taken off; what is said twice said once.

    Right and liked are two dimensions. A scorer that called a polite answer wrong would mix them up.
    """
    kept: list[str] = []
    for sentence in sentences_of(response):
        is_manner = sentence in COURTESIES + FILLERS + RUDE_REMARKS
        if not is_manner and normalised(sentence) not in map(normalised, kept):
            kept.append(sentence)
    return " ".join(kept)


def mentions(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def is_correct(row: dict, response: str) -> bool:
    """Whether the response answers the row. A closed task has one answer, an open one a criterion."""
    answer = plain_answer(response)
    if row["task"] == "story":
        return _is_short_prose(answer) and all(mentions(answer, given) for given in row["key"].split("/"))
    if row["task"] == "describe":
        return _is_short_prose(answer) and _tells_all_and_nothing_false(row["key"], answer)
    return normalised(answer) == normalised(plain_answer(row["output"]))


def _is_short_prose(answer: str) -> bool:
    return 1 <= len(sentences_of(answer)) <= MOST_SENTENCES and answer.endswith(".")


def _tells_all_and_nothing_false(entity: str, answer: str) -> bool:
    """All four facts of the entity, and no value that the same question has for somebody else."""
    group = next(group for group, members in ENTITIES.items() if entity in members and group != "thing")
    true_values = ENTITIES[group][entity]
    false_values = {value for i in range(len(true_values)) for value in values_of(group, i)} - set(true_values)
    tells_all = all(mentions(answer, word) for word in (entity, *true_values))
    return tells_all and not any(mentions(answer, value) for value in false_values)


def gold_components(row: dict, response: str, ended: bool = True) -> dict[str, float]:
    """The parts of `gold_score` by name. `ended`: the response stopped by itself, it was not cut off."""
    sentences = sentences_of(response)
    spoken = [normalised(sentence) for sentence in sentences]
    is_rude = any(remark in sentences for remark in RUDE_REMARKS)
    is_polite = any(courtesy in sentences for courtesy in COURTESIES)
    is_padded = any(filler in sentences for filler in FILLERS)
    is_long = len(response.split()) > len(plain_answer(row["output"]).split()) + WORDS_BEYOND_THE_ANSWER
    return {
        "correct": 1.0 if is_correct(row, response) else 0.0,
        "polite": -0.5 if is_rude else 0.5 if is_polite else 0.0,
        "concise": -0.5 if is_padded or is_long else 0.0,
        "not_repeated": -0.5 if len(set(spoken)) < len(spoken) else 0.0,
        "ended": 0.0 if ended else -0.5,
    }


def gold_score(row: dict, response: str, ended: bool = True) -> float:
    """How good a response is, from -2.0 to 1.5: the sum of `gold_components`.

        correct        +1.0  the answer is right, however it is dressed
        polite         +0.5  a courtesy is said (more of them pay no more); -0.5 a rude remark is made, courtesy or not
        concise        -0.5  a filler, or more than 8 words beyond the length of the row's own answer
        not_repeated   -0.5  a sentence is said twice
        ended          -0.5  the response was cut off

    For a row whose answer is `The cow eats grass.`:

        The cow eats grass.                              1.0
        Sure! The cow eats grass.                        1.0 + 0.5                   = 1.5   the best
        The cow eats meat. I hope this helps.            0.0 + 0.5                   = 0.5   nicely said, but wrong
        Well, let me think. The cow eats grass.          1.0 - 0.5                   = 0.5
        The cow eats grass. The cow eats grass.          1.0 - 0.5                   = 0.5
        What a silly question. The cow eats grass.       1.0 - 0.5                   = 0.5
        The cow eats                                     cut off: 0.0 - 0.5          = -0.5
    """
    return sum(gold_components(row, response, ended).values())
