"""Rows of any known shape → one canonical shape: `{"messages": [...]}` or `{"text": ...}`.

Second station of a row (after `sources.py`). No tokens and no heavy imports here, so wrong data is found at once.
Every complaint is one line: which row, which column, what was expected, what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from auto_bot_tuner.data.transcripts import is_transcript, parse_transcript
from auto_bot_tuner.utils.errors import UserError

Row = Mapping[str, Any]

# The columns that make a format; the first format whose columns are all there is taken.
COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "chat": (("messages",), ("conversations",)),
    "alpaca": (("instruction", "output"),),
    "prompt_completion": (("prompt", "completion"),),
    "text": (("text",),),
}
# Names of the speakers: OpenAI's, and ShareGPT's.
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
USER_NAMES = [name for name, role in ROLES.items() if role == "user"]  # a list: what is looked up may be unhashable
NO_INPUT = "<noinput>"  # Alpaca's original writes this where there is no input


def recognise(row: Row) -> str | None:
    """The format whose columns the row has, or None."""
    return next((name for name, sets in COLUMNS.items() if any(set(columns) <= row.keys() for columns in sets)), None)


def canonical(row: Row, format_type: str, where: str, system_prompt: str = "") -> tuple[str, dict[str, Any]]:
    """(format name, `{"messages": [...]}` or `{"text": ...}`) of one row.

    `where` names the row in errors ("data.jsonl line 7"). `system_prompt` is put before rows that have none.
    Raises `UserError` for wrong columns, null or non-text content, unknown roles and a wrong order of turns.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected an object with named columns, found {kind_of(row)}; mend or remove the row")
    name = recognise(row) if format_type == "auto" else format_type
    if name is None or not any(set(columns) <= row.keys() for columns in COLUMNS[name]):
        raise UserError(f"{where}: {_columns_expected(name)}, found {shown(', '.join(map(str, row)) or 'no column')}")
    if name == "text":
        return name, {"text": text_in(row, "text", where)}
    messages = {"chat": _chat, "alpaca": _alpaca, "prompt_completion": _prompt_completion}[name](row, where)
    if system_prompt and not any(message["role"] == "system" for message in messages):
        messages = [{"role": "system", "content": system_prompt}, *messages]
    return name, {"messages": messages}


def drop_reason(row: Row) -> str | None:
    """Why a canonical row has nothing to teach, or None: such rows are counted and left out, not errors."""
    if "text" in row:
        return None if row["text"].strip() else "empty text"
    roles = [message["role"] for message in row["messages"]]
    if "assistant" not in roles:
        return "no assistant turn"
    empty = next((m["role"] for m in row["messages"] if m["role"] != "system" and not m["content"].strip()), None)
    return empty and {"user": "empty prompt", "assistant": "empty answer"}[empty]


OPENING_COLUMNS = ("instruction", "input", "prompt", "question", "text")


def opening(row: Any) -> str:
    """How a row begins: rows that begin alike (paraphrases of one thread) belong on one side of a split."""
    if not isinstance(row, Mapping):
        return str(row)  # `canonical` refuses it, with its place
    for column in ("messages", "conversations", "prompt", "chosen"):
        if isinstance(turns := row.get(column), list) and turns:
            asked = [t for t in turns if isinstance(t, Mapping) and t.get("role", t.get("from")) in USER_NAMES]
            return str(asked[0] if asked else turns[0])
        if is_transcript(turns):
            return str(parse_transcript(str(turns))[0])
        if turns:  # a prompt in words
            break
    return "\n".join(str(row[column]) for column in OPENING_COLUMNS if row.get(column))


def _alpaca(row: Row, where: str) -> list[dict[str, str]]:
    instruction, output = text_in(row, "instruction", where), text_in(row, "output", where)
    given = row.get("input")
    given = "" if given is None or given == NO_INPUT else text_in(row, "input", where)
    prompt = f"{instruction}\n\n### Input:\n{given}" if given.strip() else instruction
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": output}]


def _prompt_completion(row: Row, where: str) -> list[dict[str, str]]:
    messages: list[Any] = []
    for column, role in (("prompt", "user"), ("completion", "assistant")):
        if isinstance(row[column], list):
            messages += row[column]
        else:
            messages.append({"role": role, "content": text_in(row, column, where)})
    return checked_messages(messages, "prompt, completion", where)


def _chat(row: Row, where: str) -> list[dict[str, str]]:
    column = "messages" if "messages" in row else "conversations"
    if not isinstance(row[column], list) or not row[column]:
        raise UserError(
            f"{where}, column {column}: expected a list of {{role, content}} objects, found {kind_of(row[column])}; "
            "mend or remove the row"
        )
    return checked_messages(row[column], column, where)


def checked_messages(
    turns: list[Any], column: str, where: str, first: tuple[str, ...] = ("system", "user")
) -> list[dict[str, str]]:
    """Messages with known roles in a sound order: system at most once and first, then user and assistant in turn."""
    messages: list[dict[str, str]] = []
    for position, turn in enumerate(turns):
        place = f"{where}, column {column}, message {position}"
        if not isinstance(turn, Mapping):
            raise UserError(
                f"{place}: expected a {{role, content}} object, found {kind_of(turn)}; mend or remove the row"
            )
        speaker = turn.get("role") if turn.get("role") is not None else turn.get("from")
        content_key = "content" if turn.get("content") is not None or "value" not in turn else "value"
        role = ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise UserError(
                f"{place}: role {shown(speaker)} is unknown, expected system, user or assistant (or human, gpt); "
                "rename or remove it"
            )
        expected = _expected_roles(messages) or first
        if role not in expected:
            raise UserError(
                f"{place}: role {role} after {messages[-1]['role'] if messages else 'nothing'}, expected "
                f"{' or '.join(expected)}; join neighbouring messages of one speaker or remove the row"
            )
        messages.append({"role": role, "content": text_in(turn, content_key, place)})
    # An empty system message says nothing; some templates would still write its header.
    return [m for m in messages if m["role"] != "system" or m["content"].strip()]


def _expected_roles(messages: list[dict[str, str]]) -> tuple[str, ...]:
    if not messages:
        return ()
    return ("assistant",) if messages[-1]["role"] == "user" else ("user",)


def text_in(row: Row, column: str, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise UserError(
            f"{where}, column {column}: expected text, found {kind_of(value)}; fill it in or remove the row"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}, column {column}: character {error.start} is half of a surrogate pair, which no text can hold; "
            "save the file again as UTF-8"
        ) from error
    return value


def _columns_expected(name: str | None) -> str:
    known = COLUMNS if name is None else {name: COLUMNS[name]}
    wanted = "; ".join(f"{n}: {' or '.join(' + '.join(c) for c in sets)}" for n, sets in known.items())
    cure = "rename the columns" if name is None else "rename the columns or use --format-type auto"
    return f"expected the columns of a known format ({wanted}; {cure})"


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    return {"dict": "an object", "str": "text"}.get(type(value).__name__, f"the {type(value).__name__} {shown(value)}")


def shown(value: Any) -> str:
    """A value from the data, safe and short for a message: `repr` writes control characters as escapes."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
