"""Rows with a known answer: what is asked, what is expected, whether an answer is the same. No heavy imports."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from auto_bot_tuner.data.formats import canonical, recognise
from auto_bot_tuner.data.preferences import read_preference, recognise_preference
from auto_bot_tuner.utils.errors import UserError

Row = Mapping[str, Any]


def exact_match(row: Row, response: str) -> bool:
    """Equal to the reference as the verifier `exact_match` has it: numbers as numbers, other texts but for case, spaces
    and punctuation at the ends."""
    from auto_bot_tuner.rewards.source import Attempt
    from auto_bot_tuner.rewards.verifiers import exact_match as is_reference  # it imports this module

    asked = question_and_answer(row, "the row")[0]
    return is_reference(Attempt(asked, response, True, row, [], []))


def normalised(text: str) -> str:
    """
    >>> normalised(" Paris.\\n") == normalised("paris")
    True
    """
    return " ".join(text.lower().split()).strip(string.punctuation + " ")


def question_and_answer(row: Row, where: str) -> tuple[list[dict[str, str]], str]:
    """The conversation up to the last assistant turn, and that turn. `where` names the row in errors."""
    given = row if isinstance(row, Mapping) else {}  # anything else is refused by `canonical`, with its place
    asked = given.get("prompt", given.get("question"))
    if isinstance(asked, str) and isinstance(given.get("answer"), str):
        return [{"role": "user", "content": asked}], given["answer"]
    messages = canonical(row, "auto", where)[1].get("messages", [])
    if not messages or messages[-1]["role"] != "assistant":
        raise UserError(
            f"{where}: expected a question with an answer (prompt or question + answer, alpaca, or messages that end "
            f"with an assistant turn), found {', '.join(row)}"
        )
    return messages[:-1], messages[-1]["content"]


def question(row: Row, where: str) -> list[dict[str, str]]:
    """The conversation that is to be answered: a row need not hold an answer, and one that it holds is left out."""
    if isinstance(row, Mapping) and recognise(row) in (None, "text"):
        if recognise_preference(row) and (asked := read_preference(row, where)[1].prompt):
            return asked
        if isinstance(asked := row.get("prompt", row.get("question")), str):
            return [{"role": "user", "content": asked}]
        if "prompt" in row:
            row = {"prompt": row["prompt"], "completion": ""}
        elif "instruction" in row:
            row = {"input": row.get("input"), "instruction": row["instruction"], "output": ""}
    messages = canonical(row, "auto", where)[1].get("messages", [])
    if messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages or messages[-1]["role"] != "user":
        raise UserError(
            f"{where}: expected something to answer (prompt, question, instruction or messages), found {', '.join(row)}"
        )
    return messages
