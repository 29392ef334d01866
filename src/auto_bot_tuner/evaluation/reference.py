"""Rows with a known answer: what is asked, what is expected, whether an answer is the same. No heavy imports."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from auto_bot_tuner.data.formats import canonical
from auto_bot_tuner.utils.errors import UserError

Row = Mapping[str, Any]


def exact_match(row: Row, response: str) -> bool:
    """Equal to the reference but for case, spaces and punctuation at the ends."""
    return normalised(response) == normalised(question_and_answer(row, "the row")[1])


def normalised(text: str) -> str:
    """
    >>> normalised(" Paris.\\n") == normalised("paris")
    True
    """
    return " ".join(text.lower().split()).strip(string.punctuation + " ")


def question_and_answer(row: Row, where: str) -> tuple[list[dict[str, str]], str]:
    """The conversation up to the last assistant turn, and that turn. `where` names the row in errors."""
    question = row.get("prompt", row.get("question"))
    if isinstance(question, str) and isinstance(row.get("answer"), str):
        return [{"role": "user", "content": question}], row["answer"]
    messages = canonical(row, "auto", where)[1].get("messages", [])
    if not messages or messages[-1]["role"] != "assistant":
        raise UserError(
            f"{where}: expected a question with an answer (prompt or question + answer, alpaca, or messages that end "
            f"with an assistant turn), found {', '.join(row)}"
        )
    return messages[:-1], messages[-1]["content"]
