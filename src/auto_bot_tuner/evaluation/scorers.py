"""Who says that an answer is right: the verifiers that rewards are made of, by the same names, or a function of yours.

One home for "right": a model that GRPO trained with `numeric` is measured with the same `numeric`. No heavy imports: a
wrong name, and rows that lack what it needs, are told before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from auto_bot_tuner.evaluation.reference import question
from auto_bot_tuner.rewards.named import IS_FUNCTION, check_function_name, is_verifier
from auto_bot_tuner.rewards.source import Attempt, RewardSource
from auto_bot_tuner.rewards.verifiers import verifier
from auto_bot_tuner.utils.errors import UsageError, UserError, one_line
from auto_bot_tuner.utils.settings import nearest

# name → what it calls right
MEANINGS = {
    "exact_match": "the answer of the row, but for case, spaces and punctuation at the ends; numbers as numbers",
    "numeric": "the last number of the response is that of the row's answer",
    "regex": "the pattern is found in the response",
    "json": "the whole response is JSON, with the keys that are named",
    "ended": "the response ended by itself",
    "correct": "the bundled world's own scorer: true, and an answer to the question",
}
NEED_ANSWER = ("exact_match", "numeric")
EXAMPLES = ("exact_match", "numeric", "regex:PATTERN", "json", "ended", "correct", "file.py:function")


@dataclass(frozen=True)
class NamedScorer:
    """A reward source that only says right (1) or wrong (0)."""

    name: str
    meaning: str
    needs_answer: bool  # of the row
    source: RewardSource

    def __call__(self, attempts: Sequence[Attempt]) -> list[bool]:
        """
        Raises:
            UserError: it says something else, or a row lacks what it needs.
        """
        scores = self.source(attempts)
        for score in scores:
            if score not in (0, 1):
                raise UserError(
                    f"--scorer {self.name} said {score:g}, expected 1 (right) or 0 (wrong); for other numbers use "
                    "evaluate winrate --judge"
                )
        return [score == 1 for score in scores]


def scorer_named(name: str) -> NamedScorer:
    """The scorer that `--scorer` names; a file of the user's is run.

    Raises:
        UsageError: there is no such scorer.
        UserError: the user's file cannot be run.
    """
    head = name.partition(":")[0]
    if is_verifier(name) and head in MEANINGS:
        return NamedScorer(name, MEANINGS[head], head in NEED_ANSWER, verifier(name))
    if is_verifier(name):
        raise UsageError(
            f"--scorer {name} says how good, not whether right; there are {', '.join(EXAMPLES)} "
            f"(evaluate winrate --judge compares by scores)"
        )
    if IS_FUNCTION.search(name):
        from auto_bot_tuner.rewards.functions import reward_of_file

        try:
            check_function_name(name)
            source = reward_of_file(name)
        except UserError as error:  # they speak of --reward, where the same functions are named
            raise type(error)(one_line(error).replace("--reward", "--scorer")) from error
        return NamedScorer(name, "the function returns 1", False, source)
    close = nearest(head, MEANINGS)
    meant = f"did you mean {close}? " if close else ""
    raise UsageError(f"--scorer {name}: there is no such scorer; {meant}There are {', '.join(EXAMPLES)}")


def check_rows(scorer: NamedScorer, rows: Any) -> None:
    """Score an empty response to every row: what a row lacks is told before a model is loaded.

    Raises:
        UserError: a row has no question, or not what the scorer needs.
    """
    for i in range(len(rows)):
        asked = question(rows[i], rows.where(i))
        if not IS_FUNCTION.search(scorer.name):
            try:
                scorer([Attempt(asked, "", False, rows[i], [], [])])
            except UserError as error:
                raise UserError(f"{rows.where(i)}: {str(error).replace('reward ', '--scorer ', 1)}") from error
