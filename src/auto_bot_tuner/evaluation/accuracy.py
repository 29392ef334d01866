r"""How many answers are right, task by task. How sure one can be of the number: `intervals.py`.

Greedy decoding gives each question one answer. Sampled, a model answers differently each time, and two questions part:

    mean@n = mean over questions of c/n          how often is an answer right?
    pass@k = mean of 1 - C(n-c, k) / C(n, k)     is one of k answers right?  (Chen et al. 2107.03374, eq. 1)

with c right ones of n samples. pass@k is what a verifier, or reinforcement learning, could still pick out; it grows
with k and says nothing of how to pick. The n answers to one question are not independent: a question counts once, with
its mean, and the interval is that of as many questions (a little wide, which errs on the safe side).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.generation import Response, respond
from auto_bot_tuner.evaluation.intervals import Share
from auto_bot_tuner.evaluation.reference import Row, exact_match, question, question_and_answer
from auto_bot_tuner.evaluation.scorers import NamedScorer
from auto_bot_tuner.rewards.source import Attempt
from auto_bot_tuner.utils.errors import UsageError, UserError

# Does the response answer the row?
Scorer = Callable[[Any, str], bool]


@dataclass(frozen=True)
class AccuracyReport:
    """What was asked, answered and right."""

    overall: Share  # of the questions; each counts with the share of its answers that are right
    by_task: dict[str, Share]  # rows without a `task` column count as the one task "all"
    ended: Share  # answers that stopped by themselves
    prompts: list[str]  # M · samples, as the two below: the answers to a question are neighbours
    responses: list[Response]
    correct: list[bool]
    samples: int = 1
    pass_at: dict[int, Share] = field(default_factory=dict)  # k → pass@k, where a question has several answers


def evaluate_accuracy(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    is_correct: Scorer | NamedScorer | None = None,
    config: GenerationConfig | None = None,
    samples: int = 1,
) -> AccuracyReport:
    """Let the model answer each row's question and check the answers.

    A row is in any format that training reads (its last assistant turn is the reference answer), or has the columns
    `prompt` or `question`, and `answer`. `is_correct` defaults to `exact_match`; the bundled world has
    `assets.gold.is_correct`; `scorers.scorer_named` gives others, some of which need no reference answer. Raises
    UserError for no rows and for rows that lack what the scorer needs, UsageError for several samples at temperature 0.
    """
    if not rows:
        raise UserError("there are no rows to measure accuracy on: choose another split or more samples")
    if samples > 1 and not (config and config.temperature):
        raise UsageError(f"--samples {samples} would be the same answer: set a --temperature above 0")
    where = getattr(rows, "where", "row {}".format)  # rows of `data.sources` know file and line
    needs_answer = not isinstance(is_correct, NamedScorer) or is_correct.needs_answer
    asked = [
        question_and_answer(rows[i], where(i))[0] if needs_answer else question(rows[i], where(i))
        for i in range(len(rows))
    ]
    questions = [conversation for conversation in asked for _ in range(samples)]
    responses = respond(model, tokenizer, questions, config)
    correct = marks_of([rows[i // samples] for i in range(len(questions))], questions, responses, is_correct)
    right = [sum(correct[i : i + samples]) for i in range(0, len(correct), samples)]  # (M,): c of each question
    tasks: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        tasks.setdefault(str(row.get("task") or "all"), []).append(i)
    ended = [response.ended for response in responses]
    return AccuracyReport(
        overall=share_of_questions(right, samples),
        by_task={task: share_of_questions([right[i] for i in tasks[task]], samples) for task in sorted(tasks)},
        ended=share_of_questions([sum(ended[i : i + samples]) for i in range(0, len(ended), samples)], samples),
        prompts=[messages[-1]["content"] for messages in questions],
        responses=responses,
        correct=correct,
        samples=samples,
        pass_at={k: Share(sum(pass_at(k, samples, c) for c in right), len(right)) for k in powers_of_two(samples)},
    )


def marks_of(
    rows: Sequence[Row],
    questions: Sequence[Any],
    responses: Sequence[Response],
    is_correct: Scorer | NamedScorer | None,
) -> list[bool]:
    """Right or wrong, of every response."""
    if isinstance(is_correct, NamedScorer):
        attempts = [
            Attempt(asked, response.text, response.ended, row, [], response.token_ids)
            for row, asked, response in zip(rows, questions, responses, strict=True)
        ]
        return is_correct(attempts)
    scorer = is_correct or exact_match
    return [scorer(row, response.text) for row, response in zip(rows, responses, strict=True)]


def share_of_questions(counts: Sequence[int], samples: int) -> Share:
    """The mean over questions of c/n."""
    return Share(sum(counts) if samples == 1 else fmean(counts) / samples * len(counts), len(counts))


def pass_at(k: int, n: int, c: int) -> float:
    """The chance that at least one of k is right that are drawn from n answers of which c are.

    >>> pass_at(1, 4, 1), pass_at(2, 4, 1), pass_at(2, 2, 0)
    (0.25, 0.5, 0.0)
    """
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, … and n itself; nothing for 1.

    >>> powers_of_two(6)
    [1, 2, 4, 6]
    """
    return [] if n == 1 else [*(2**i for i in range((n - 1).bit_length())), n]
