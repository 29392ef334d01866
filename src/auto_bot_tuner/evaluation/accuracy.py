"""How many answers are right, task by task. How sure one can be of the number: `intervals.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.generation import Response, respond
from auto_bot_tuner.evaluation.intervals import Share
from auto_bot_tuner.evaluation.reference import Row, exact_match, question_and_answer
from auto_bot_tuner.utils.errors import UserError

# Does the response answer the row?
Scorer = Callable[[Any, str], bool]


@dataclass(frozen=True)
class AccuracyReport:
    """What was asked, answered and right."""

    overall: Share
    by_task: dict[str, Share]  # rows without a `task` column count as the one task "all"
    ended: Share  # answers that stopped by themselves
    prompts: list[str]
    responses: list[Response]
    correct: list[bool]


def evaluate_accuracy(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    is_correct: Scorer | None = None,
    config: GenerationConfig | None = None,
) -> AccuracyReport:
    """Let the model answer each row's question and check the answers.

    A row is in any format that training reads (its last assistant turn is the reference answer), or has the columns
    `prompt` or `question`, and `answer`. `is_correct` defaults to `exact_match`; the bundled world has
    `assets.gold.is_correct`. Raises UserError for no rows and for rows without a question and an answer.
    """
    if not rows:
        raise UserError("there are no rows to measure accuracy on: choose another split or more samples")
    scorer = is_correct or exact_match
    where = getattr(rows, "where", "row {}".format)  # rows of `data.sources` know file and line
    questions = [question_and_answer(rows[i], where(i))[0] for i in range(len(rows))]
    responses = respond(model, tokenizer, questions, config)
    correct = [scorer(row, response.text) for row, response in zip(rows, responses, strict=True)]
    tasks: dict[str, list[bool]] = {}
    for row, is_right in zip(rows, correct, strict=True):
        tasks.setdefault(str(row.get("task") or "all"), []).append(is_right)
    return AccuracyReport(
        overall=Share(sum(correct), len(correct)),
        by_task={task: Share(sum(marks), len(marks)) for task, marks in sorted(tasks.items())},
        ended=Share(sum(response.ended for response in responses), len(responses)),
        prompts=[messages[-1]["content"] for messages in questions],
        responses=responses,
        correct=correct,
    )
