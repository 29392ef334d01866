"""Who decides which of two answers is better: code that knows (`gold`), a reward model, or a function of yours.

A judge that *scores* each answer by itself cannot be swayed by the order in which it sees them. One that *compares*
can, and language models that judge are (Wang et al. 2305.17926): it is asked in both orders, and where it takes the
same place twice, its word is no judgement; the pair counts as a tie and is reported as position bias.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from auto_bot_tuner.data.chat_template import Conversation
from auto_bot_tuner.evaluation.win_rates import outcomes_of_scores
from auto_bot_tuner.utils.errors import UsageError, UserError, one_line

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
    path, _, function_name = name.rpartition(":")
    if not path:
        raise UsageError(f"--judge {name} names no function: write {name}:function")
    function = getattr(load_file(Path(path).expanduser()), function_name, None)
    if not callable(function):
        raise UsageError(f"--judge {name}: there is no function {function_name} in {path}")
    takes = number_of_arguments(function)
    if takes not in (2, 3):
        given = f"{takes} argument{'s' * (takes != 1)}"
        raise UsageError(
            f"--judge {name}: the function takes {given}, expected (prompt, response), which returns a score, or "
            "(prompt, first, second), which returns 1, 0 or 0.5"
        )

    def ask(*texts: str) -> float:
        try:
            value = function(*texts)
        except (Exception, SystemExit) as error:
            raise UserError(f"--judge {name} failed at {place_of(error, path)}: {described(error)}") from error
        if isinstance(value, str) or not is_number(value):
            raise UserError(f"--judge {name} returned {shown(value)}, expected a finite number")
        if takes == 3 and float(value) not in (0, 0.5, 1):
            raise UserError(f"--judge {name} returned {shown(value)}, expected 1 (first is better), 0 (second) or 0.5")
        return float(value)

    if takes == 3:
        return comparing_judge(ask)

    def score(prompts: Sequence[Conversation], answers: Sequence[Answer]) -> list[float]:
        return [ask(as_text(prompt), answer.text) for prompt, answer in zip(prompts, answers, strict=True)]

    return scoring_judge(score)


def load_file(path: Path) -> ModuleType:
    """The file as a module of its own."""
    if not path.is_file():
        raise UsageError(f"--judge: no such file: {path} (looked from {Path.cwd()}); check the path")
    spec = importlib.util.spec_from_file_location(f"judge_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--judge: {path} is no Python file: name one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"--judge: {place_of(error, str(path))}: {described(error)}") from error
    return module


def number_of_arguments(function: Callable[..., Any]) -> int:
    """How many arguments without a default a call by position must give."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def place_of(error: BaseException, path: str) -> str:
    """`file.py:7`: the last line of the user's own file that the error came through."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{path}:{error.lineno}"
    own = Path(path).expanduser().resolve()
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == own]
    return f"{path}:{lines[-1]}" if lines else path


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def as_text(prompt: Conversation) -> str:
    """What a user's function is told of a prompt: the one question, or all turns line by line.

    >>> as_text([{"role": "user", "content": "Hi"}])
    'Hi'
    """
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
