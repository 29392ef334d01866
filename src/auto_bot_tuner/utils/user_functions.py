"""Functions of the user's, named `file.py:function`: judges and rewards. Loading such a file runs its code.

Whatever goes wrong in them is told in one line with the place in the *user's* file, for that is where it is mended.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from auto_bot_tuner.data.chat_template import Conversation
from auto_bot_tuner.utils.errors import UsageError, UserError, one_line
from auto_bot_tuner.utils.paths import expanded


@dataclass(frozen=True)
class UserFunction:
    """A function that gives one finite number for what it is given, or one clear line."""

    told: str  # how its errors begin: "--judge my_judge.py:score"
    path: str  # the file that it stands in
    function: Callable[..., Any]
    takes: int  # arguments

    def __call__(self, *given: Any) -> float:
        """
        Raises:
            UserError: the function fails, or returns something else than a finite number.
        """
        try:
            value = self.function(*given)
        except (Exception, SystemExit) as error:
            raise UserError(f"{self.told} failed at {place_of(error, self.path)}: {described(error)}") from error
        if isinstance(value, str) or not is_number(value):
            raise UserError(f"{self.told} returned {shown(value)}, expected a finite number")
        return float(value)


def user_function(name: str, option: str, signatures: Mapping[int, str]) -> UserFunction:
    """The function called `name`, `file.py:function`, from the user's file.

    Args:
        option: where it was named, for errors: `--judge`.
        signatures: number of arguments that it may take → how that is told.

    Raises:
        UsageError: there is no such file or function, or it takes something else.
        UserError: the file cannot be run.
    """
    path, _, function_name = name.rpartition(":")
    if not path:
        raise UsageError(f"{option} {name} names no function: write {name}:function")
    function = getattr(load_file(expanded(path), option), function_name, None)
    if not callable(function):
        raise UsageError(f"{option} {name}: there is no function {function_name} in {path}")
    return checked_function(function, f"{option} {name}", path, signatures)


def checked_function(function: Callable[..., Any], told: str, path: str, signatures: Mapping[int, str]) -> UserFunction:
    """`function` as a `UserFunction`, if it takes as many arguments as one of `signatures`.

    Raises:
        UsageError: it does not, or nobody can tell.
    """
    try:
        takes = number_of_arguments(function)
    except (TypeError, ValueError) as error:  # of functions written in C
        raise UsageError(f"{told}: Python cannot tell what it takes; wrap it in a function of yours") from error
    if takes not in signatures:
        given = f"{takes} argument{'s' * (takes != 1)}"
        raise UsageError(f"{told}: the function takes {given}, expected {', or '.join(signatures.values())}")
    return UserFunction(told, path, function, takes)


def load_file(path: Path, option: str) -> ModuleType:
    """The file as a module of its own."""
    if not path.is_file():
        raise UsageError(f"{option}: no such file: {path} (looked from {Path.cwd()}); check the path")
    spec = importlib.util.spec_from_file_location(f"{option.strip('-')}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{option}: {path} is no Python file: name one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{option}: {place_of(error, str(path))}: {described(error)}") from error
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
    own = expanded(path).resolve()
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == own]
    return f"{path}:{lines[-1]}" if lines else path


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except Exception:  # whatever an object of the user's does when asked: an array of two is a RuntimeError of torch's
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
