"""A function of the user's as a reward: it sees the texts (and the row, if it asks for it) and says a number."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from auto_bot_tuner.rewards.source import Attempt
from auto_bot_tuner.rewards.verifiers import Verifier
from auto_bot_tuner.utils.user_functions import UserFunction, as_text, checked_function, user_function

SIGNATURES = {2: "(prompt, response)", 3: "(prompt, response, row), and return a number"}


def reward_of_file(name: str) -> Verifier:
    """`file.py:function` as a reward source. Loading the file runs its code.

    The function takes (prompt, response), or (prompt, response, row), and returns a finite number, higher is better.
    Prompt and response are texts, the response without its end token; a prompt of several turns is told line by line,
    "user: …", "assistant: …". The row is the data set's own, as a mapping.

    Raises:
        UsageError: there is no such file or function, or it takes something else.
        UserError: the file cannot be run; later: the function fails or returns something else.
    """
    return one_by_one(name, user_function(name, "--reward", SIGNATURES))


def reward_of_function(function: Callable[..., Any]) -> Verifier:
    """The same for a function that Python code hands over.

    Raises:
        UsageError: it takes something else.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        path = inspect.getsourcefile(function) or name
    except TypeError:  # an object that can be called
        path = name
    return one_by_one(name, checked_function(function, f"reward {name}", path, SIGNATURES))


def one_by_one(name: str, function: UserFunction) -> Verifier:
    def score(attempt: Attempt) -> float:
        texts = as_text(attempt.prompt), attempt.response
        return function(*texts, attempt.row) if function.takes == 3 else function(*texts)

    return Verifier(name, score)
