"""Rewards that code can compute: the answer is right, the form is kept, the end was reached.

A verifier cannot be flattered as a reward model can (Lambert et al. 2411.15124: reinforcement learning with verifiable
rewards), but it says little: 0 or 1, and nothing of an answer that it does not understand. Names and what they look at:

    exact_match       1 where the response is the row's reference answer, but for case, spaces, punctuation at the ends
    numeric           1 where its last number is the reference's: 42, 42.0, $42 and "… #### 42" are the same
    regex:PATTERN     1 where the pattern is found, line breaks included in `.`:  regex:<think>.+</think>
    json[:KEY,…]      1 where the whole response is a JSON value; with keys: an object that has them
    length:MAX        0 up to MAX tokens, then falling in proportion to −1 at 2 · MAX
    repetition[:N]    minus the share of its runs of N words (3) that it has said before: 0 to −1
    ended             1 where it ended by itself
    correct, gold     in the bundled world: right (0 or 1), and how good (−2 to 1.5), see `assets/gold.py`

No heavy imports: a wrong name is told before anything is loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from auto_bot_tuner.assets.gold import gold_score, is_correct
from auto_bot_tuner.evaluation.reference import normalised, question_and_answer
from auto_bot_tuner.rewards.numbers import as_number, last_number, same_number
from auto_bot_tuner.rewards.source import Attempt
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.patience import at_most

REGEX_SECONDS = 10.0  # for one response; a pattern that does not backtrack takes microseconds
GOLD_COLUMNS = ("task", "key", "output")
FINAL_LINE = re.compile(r"####[ \t]*(\S[^\n]*?)\s*\Z")  # GSM8K: the work, then "#### 42" as the last line


@dataclass
class Verifier:
    """A reward source that looks at one attempt at a time."""

    name: str
    score: Callable[[Attempt], float]

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        return [float(self.score(attempt)) for attempt in attempts]


def verifier(name: str) -> Verifier:
    """The verifier called `name`, its argument after a colon.

    Raises:
        UsageError: its argument is missing or cannot be understood, or it takes none. (KeyError: there is no such one.)
    """
    head, colon, argument = name.partition(":")
    if head in MADE_WITH_ARGUMENT:
        return Verifier(name, MADE_WITH_ARGUMENT[head](argument, bool(colon)))
    if colon:
        raise UsageError(f"reward {name}: {head} takes nothing after it; write {head}")
    return Verifier(name, PLAIN[head])


# --- the right answer -----------------------------------------------------------------------------------------------


def exact_match(attempt: Attempt) -> bool:
    """The response is the reference answer; where either shows its work, its last line "#### 42" alone counts.

    Numbers are compared as numbers: punctuation at the ends does not count, and the minus of −5 is none.
    """
    expected, given = final_answer(reference_answer(attempt, "exact_match")), final_answer(attempt.response)
    numbers = as_number(expected), as_number(given)
    if numbers[0] is not None and numbers[1] is not None:
        return same_number(numbers[0], numbers[1])
    if not normalised(expected):  # punctuation alone
        return expected.strip() == given.strip()
    return normalised(expected) == normalised(given)


def numeric(attempt: Attempt) -> bool:
    """The last number that the response says is the last one of the reference answer, to 1e-6 of its size."""
    reference = reference_answer(attempt, "numeric")
    expected = last_number(final_answer(reference))
    if expected is None:
        raise UserError(
            f"reward numeric: the reference answer {shortened(reference)} has no number, and it answers "
            f"{shortened(asked(attempt))}: use exact_match, or rows whose answers are numbers"
        )
    given = last_number(final_answer(attempt.response))
    return given is not None and same_number(expected, given)


def final_answer(text: str) -> str:
    """What stands after `####` in the last line, else all of it.

    >>> final_answer("48 / 2 = 24 and 48 + 24 = 72\\n#### 72")
    '72'
    """
    # The last line alone: #### opens a heading elsewhere, and who goes on after the answer has not given it.
    found = FINAL_LINE.search(text)
    return found[1] if found else text


def reference_answer(attempt: Attempt, name: str) -> str:
    """The row's own answer.

    Raises:
        UserError: it has none.
    """
    try:
        return question_and_answer(attempt.row, "the row")[1]
    except UserError as error:
        raise UserError(
            f"reward {name} needs rows with a reference answer, and that of {shortened(asked(attempt))} has none: "
            "add a column answer, or take a reward that needs none"
        ) from error


def correct(attempt: Attempt) -> bool:
    return is_correct(world_row(attempt, "correct"), attempt.response)


def gold(attempt: Attempt) -> float:
    return gold_score(world_row(attempt, "gold"), attempt.response, attempt.ended)


def world_row(attempt: Attempt, name: str) -> dict[str, Any]:
    """The row, if it is one of the bundled world, whose answers can be computed.

    Raises:
        UserError: it lacks what they are computed from.
    """
    row = dict(attempt.row)
    if missing := [column for column in GOLD_COLUMNS if not isinstance(row.get(column), str)]:
        raise UserError(
            f"reward {name} needs the columns {', '.join(GOLD_COLUMNS)}, and {', '.join(missing)} is missing in the "
            f"row of {shortened(asked(attempt))}: use tiny-instructions or tiny-preferences, or another reward"
        )
    return row


# --- the form -------------------------------------------------------------------------------------------------------


def ended(attempt: Attempt) -> bool:
    return attempt.ended


def made_regex(pattern: str, _: bool) -> Callable[[Attempt], bool]:
    if not pattern:
        raise UsageError("reward regex needs a pattern: write regex:PATTERN, such as regex:<think>.+</think>")
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"reward regex:{pattern}: the pattern cannot be read ({error}); mend it") from error
    slow = f"reward regex:{pattern} takes forever on a response: write it without a repeat inside a repeat, as (a+)+ is"

    def is_found(attempt: Attempt) -> bool:
        with at_most(REGEX_SECONDS, slow):
            return compiled.search(attempt.response) is not None

    return is_found


def made_json(argument: str, has_argument: bool) -> Callable[[Attempt], bool]:
    keys = [key.strip() for key in argument.split(",")] if has_argument else []
    if not all(keys):
        raise UsageError(f"reward json:{argument}: expected keys with commas between them, such as json:name,age")

    def is_json(attempt: Attempt) -> bool:
        try:
            value = json.loads(attempt.response, parse_constant=refuse)
        except (ValueError, RecursionError):
            return False
        return not keys or (isinstance(value, dict) and all(key in value for key in keys))

    return is_json


def refuse(constant: str) -> None:
    """Python reads NaN and Infinity, JSON has no such thing."""
    raise ValueError(f"{constant} is no JSON")


def made_length(argument: str, _: bool) -> Callable[[Attempt], float]:
    most = positive("length", argument, "length:64: the tokens that cost nothing")

    def too_long(attempt: Attempt) -> float:
        over = max(0, len(attempt.response_ids) - most)  # the end token counts, as it does in max_new_tokens
        return -min(1.0, over / most)

    return too_long


def made_repetition(argument: str, has_argument: bool) -> Callable[[Attempt], float]:
    n = positive("repetition", argument, "repetition:3: the words of a run") if has_argument else 3

    def repeated(attempt: Attempt) -> float:
        words = re.findall(r"\w+", attempt.response.lower())
        runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        return len(set(runs)) / len(runs) - 1 if runs else 0.0

    return repeated


def positive(name: str, argument: str, example: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", argument) or not int(argument):
        given = f"{name}:{argument}" if argument else name
        raise UsageError(f"reward {given}: expected a whole number above 0, as in {example}")
    return int(argument)


def asked(attempt: Attempt) -> str:
    return attempt.prompt[-1]["content"] if attempt.prompt else ""


def shortened(text: str) -> str:
    """A text of somebody's data in a message of one line."""
    told = repr(text)
    return told if len(told) <= 80 else told[:77] + "…"


PLAIN: dict[str, Callable[[Attempt], float]] = {
    "exact_match": exact_match,
    "numeric": numeric,
    "correct": correct,
    "gold": gold,
    "ended": ended,
}
# (what stands after the colon, whether there is a colon) → the scorer
MADE_WITH_ARGUMENT: dict[str, Callable[[str, bool], Callable[[Attempt], float]]] = {
    "regex": made_regex,
    "json": made_json,
    "length": made_length,
    "repetition": made_repetition,
}
NAMES = (*PLAIN, *MADE_WITH_ARGUMENT)
EXAMPLES = ("exact_match", "numeric", "regex:PATTERN", "json", "length:64", "repetition", "ended", "correct", "gold")
