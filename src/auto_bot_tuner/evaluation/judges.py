"""Who decides which of two answers is better: code that knows (`gold`), a reward model, or a function of yours.

A judge that *scores* each answer by itself cannot be swayed by the order in which it sees them. One that *compares*
can, and language models that judge are (Wang et al. 2305.17926): it is asked in both orders, and where it takes the
same place twice, its word is no judgement; the pair counts as a tie and is reported as position bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from auto_bot_tuner.data.chat_template import Conversation
from auto_bot_tuner.evaluation.win_rates import outcomes_of_scores
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.user_functions import as_text, shown, user_function

GOLD_COLUMNS = ("task", "key", "output")


@dataclass(frozen=True)
class Answer:
    """One model's answer as a judge sees it."""

    text: str
    ended: bool  # by itself; False: cut off


@dataclass(frozen=True)
class Judgement:
    """What a judge says of n pairs of answers."""

    outcomes: list[float]  # 1: the first is better, 0: the second, ½: a tie
    scores: tuple[list[float], list[float]] | None = None  # of the first and the second answers, where it scores
    undecided: int = 0  # pairs in which a comparing judge contradicted itself when the order was turned


# (prompts, answers of the first model, answers of the second), each n long
Judge = Callable[[Sequence[Conversation], Sequence[Answer], Sequence[Answer]], Judgement]
# (prompts, answers) → n scores
ScoreAll = Callable[[Sequence[Conversation], Sequence[Answer]], Sequence[float]]


def scoring_judge(score: ScoreAll) -> Judge:
    """The better score wins. Equal answers have equal scores, whatever rounding says."""

    def judge(prompts: Sequence[Conversation], first: Sequence[Answer], second: Sequence[Answer]) -> Judgement:
        scores = list(score(prompts, first)), list(score(prompts, second))
        outcomes = outcomes_of_scores(*scores)
        same = [a == b for a, b in zip(first, second, strict=True)]
        return Judgement([0.5 if equal else o for o, equal in zip(outcomes, same, strict=True)], scores)

    return judge


def comparing_judge(compare: Callable[[str, str, str], float]) -> Judge:
    """Asked in both orders: 1 where the text that it sees first is better, 0 where the second is, ½ for a tie."""

    def judge(prompts: Sequence[Conversation], first: Sequence[Answer], second: Sequence[Answer]) -> Judgement:
        outcomes, undecided = [], 0
        for prompt, a, b in zip(prompts, first, second, strict=True):
            if a.text == b.text:
                outcomes.append(0.5)
                continue
            told = as_text(prompt)
            straight, turned = compare(told, a.text, b.text), compare(told, b.text, a.text)
            agrees = straight == 1 - turned
            outcomes.append(straight if agrees else 0.5)
            undecided += not agrees
        return Judgement(outcomes, undecided=undecided)

    return judge


def gold_judge(rows: Sequence[Any], where: Callable[[int], str]) -> Judge:
    """The bundled world's own scorer, for rows that have its columns; the prompts judged must be those of the rows.

    Raises:
        UserError: a row lacks them.
    """
    from auto_bot_tuner.assets.gold import gold_score

    for i, row in enumerate(rows):
        missing = [column for column in GOLD_COLUMNS if not isinstance(row.get(column), str)]
        if missing:
            raise UserError(
                f"{where(i)}: the gold judge needs the columns {', '.join(GOLD_COLUMNS)}, and {', '.join(missing)} is "
                "missing: use tiny-instructions or tiny-preferences, or another --judge"
            )

    def score(prompts: Sequence[Conversation], answers: Sequence[Answer]) -> list[float]:
        each = len(answers) // len(rows)  # samples per prompt, next to each other
        return [gold_score(rows[i // each], answer.text, answer.ended) for i, answer in enumerate(answers)]

    return scoring_judge(score)


# --- a function of the user's ---------------------------------------------------------------------------------------


def function_judge(name: str) -> Judge:
    """`file.py:function` as a judge. Loading the file runs its code.

    The function takes (prompt, response) and returns a score, higher is better; or it takes (prompt, first, second) and
    returns 1, 0 or 0.5. All are texts; a prompt of several turns is told line by line, "user: …", "assistant: …".

    Raises:
        UsageError: there is no such file or function, or it takes something else.
        UserError: the file cannot be run; later: the function fails or returns something else.
    """
    function = user_function(
        name,
        "--judge",
        {2: "(prompt, response), which returns a score", 3: "(prompt, first, second), which returns 1, 0 or 0.5"},
    )
    if function.takes == 3:

        def compare(prompt: str, first: str, second: str) -> float:
            outcome = function(prompt, first, second)
            if outcome not in (0, 0.5, 1):
                raise UserError(
                    f"{function.told} returned {shown(outcome)}, expected 1 (first is better), 0 (second) or 0.5"
                )
            return outcome

        return comparing_judge(compare)

    def score(prompts: Sequence[Conversation], answers: Sequence[Answer]) -> list[float]:
        return [function(as_text(prompt), answer.text) for prompt, answer in zip(prompts, answers, strict=True)]

    return scoring_judge(score)
