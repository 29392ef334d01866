"""Rows of preference data, of any known shape → one canonical shape: a prompt, its responses and their order.

The second station of a row, as `formats.py` is for instructions. No tokens and no heavy imports here. Recognised by
their columns: pairs (`chosen`, `rejected`; the prompt in its own column, or as the turns that both sides share, also in
raw HH transcripts), rankings of several responses, single scored responses, and unpaired good or bad ones (KTO).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from auto_bot_tuner.data.chat_template import Conversation
from auto_bot_tuner.data.formats import USER_NAMES, Row, checked_messages, kind_of, shown, text_in
from auto_bot_tuner.data.transcripts import is_transcript, parse_transcript, shared_turns
from auto_bot_tuner.utils.errors import UserError

# The columns that make a format; the first whose columns are all there is taken.
COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "pair": (("chosen", "rejected"),),
    "ranking": tuple(("prompt", "responses", order) for order in ("ranking", "ranks", "scores")),
    "scored": (("prompt", "response", "score"),),
    "unpaired": (("prompt", "completion", "label"),),
}
CATEGORIES = ("category", "dimension", "task", "subset")
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))
LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


class Preference(NamedTuple):
    """One prompt and what is known of its responses, best first."""

    prompt: Conversation  # whole turns, the last of them the user's
    responses: list[Conversation]  # each begins with an assistant's turn; HH's may go on with user, assistant …
    ranks: list[float]  # of the responses: lower is better, equal is tied
    scores: list[float] | None = None  # the data's own numbers; None where only an order is known
    label: bool | None = None  # unpaired rows: the one response is good or bad
    category: str = ""
    margin: float | None = None  # by how much the first is better, where the data says so without scores


def recognise_preference(row: Row) -> str | None:
    """The format whose columns the row has, or None."""
    return next((name for name, sets in COLUMNS.items() if any(set(columns) <= row.keys() for columns in sets)), None)


def read_preference(row: Any, where: str, system_prompt: str = "") -> tuple[str, Preference]:
    """(format name, `Preference`) of one raw row.

    `where` names the row in errors ("data.jsonl line 7"). `system_prompt` is put before prompts that have none.
    A null or empty side is left for `drop_reason`; raises `UserError` in one line for what cannot be understood.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected an object with named columns, found {kind_of(row)}; mend or remove the row")
    name = recognise_preference(row)
    if name is None:
        wanted = "; ".join(f"{n}: {' or '.join(' + '.join(c) for c in sets)}" for n, sets in COLUMNS.items())
        found = shown(", ".join(map(str, row)) or "no column")
        raise UserError(
            f"{where}: expected the columns of preference data ({wanted}), found {found}; rename the columns"
        )
    preference = {"pair": _pair, "ranking": _ranking, "scored": _scored, "unpaired": _unpaired}[name](row, where)
    category = next((str(row[column]) for column in CATEGORIES if row.get(column) is not None), "")
    if system_prompt and preference.prompt and preference.prompt[0]["role"] != "system":
        preference = preference._replace(prompt=[{"role": "system", "content": system_prompt}, *preference.prompt])
    if name == "pair" and is_transcript(row["chosen"]):
        name = "HH transcripts"
    return name, preference._replace(category=category)


def drop_reason(preference: Preference) -> str | None:
    """Why a row compares nothing, or None: such rows are counted and left out, not errors."""
    if not any(preference.responses):
        return "empty response"
    if not preference.prompt:
        return "no shared prompt"
    if not preference.prompt[-1]["content"].strip():
        return "empty prompt"
    full = [response for response in preference.responses if response]
    if len(full) < min(2, len(preference.responses)):
        return "empty response"
    return "identical responses" if len(full) > 1 and all(response == full[0] for response in full) else None


# --- one reader per format ------------------------------------------------------------------------------------------


def _pair(row: Row, where: str) -> Preference:
    prompt, responses = _split(row, {"chosen": row["chosen"], "rejected": row["rejected"]}, where)
    names = next((names for names in SCORES if all(row.get(name) is not None for name in names)), None)
    scores = [_number(row[name], name, where) for name in names] if names else None
    margin = _number(row["margin"], "margin", where) if row.get("margin") is not None else None
    return Preference(prompt, responses, [0, 1], scores, margin=margin)


def _ranking(row: Row, where: str) -> Preference:
    """`ranking` lists the responses' positions, best first; `ranks` and `scores` have one number per response."""
    given = row["responses"]
    if not isinstance(given, list) or len(given) < 2:
        raise UserError(
            f"{where}, column responses: expected a list of two or more, found {kind_of(given)}; mend or remove the row"
        )
    column = next(name for name in ("ranking", "ranks", "scores") if name in row)
    values = row[column] if isinstance(row[column], list) else []
    numbers = [_number(value, column, where) for value in values]
    if len(numbers) != len(given):
        raise UserError(
            f"{where}, column {column}: expected {len(given)} numbers, one per response, found "
            f"{kind_of(row[column])}; mend or remove the row"
        )
    if column == "ranking":
        # Positions counted from 0 or from 1: a permutation says itself which.
        positions = [int(number - min(numbers)) for number in numbers]
        if sorted(numbers) not in ([*range(len(given))], [*range(1, len(given) + 1)]):
            raise UserError(
                f"{where}, column ranking: expected the positions of the responses, best first, each once, found "
                f"{shown(row[column])}; mend it, or name the column ranks where it has a rank per response"
            )
        ranks: list[float] = [positions.index(i) for i in range(len(given))]
    else:
        ranks = numbers if column == "ranks" else [-number for number in numbers]
    prompt, responses = _split(row, {f"responses, item {i}": response for i, response in enumerate(given)}, where)
    best_first = sorted(range(len(given)), key=lambda i: ranks[i])
    scores = [numbers[i] for i in best_first] if column == "scores" else None
    return Preference(prompt, [responses[i] for i in best_first], [ranks[i] for i in best_first], scores)


def _scored(row: Row, where: str) -> Preference:
    prompt, responses = _split(row, {"response": row["response"]}, where)
    score = _number(row["score"], "score", where)
    return Preference(prompt, responses, [-score], [score])


def _unpaired(row: Row, where: str) -> Preference:
    prompt, responses = _split(row, {"completion": row["completion"]}, where)
    label = LABELS.get(str(row["label"]).strip().lower())
    if label is None:
        raise UserError(
            f"{where}, column label: expected true (good) or false (bad), found {shown(row['label'])}; "
            "mend or remove the row"
        )
    return Preference(prompt, responses, [0], label=label)


def _number(value: Any, column: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{where}, column {column}: expected a number, found {kind_of(value)}; fill it in or remove the row"
        )
    return number


# --- prompt and responses -------------------------------------------------------------------------------------------


def _split(row: Row, sides: dict[str, Any], where: str) -> tuple[Conversation, list[Conversation]]:
    """(prompt, response per side). A side that says nothing becomes an empty response."""
    prompt = _prompt(row["prompt"], where) if row.get("prompt") is not None else None
    if prompt is None and not any(_is_whole(side) for side in sides.values()):
        if "prompt" not in row and not all(_is_empty(side) for side in sides.values()):
            raise UserError(
                f"{where}: no prompt: expected a column prompt, or sides that are whole conversations (messages that "
                "begin with the user's, or HH transcripts); name the column prompt"
            )
        prompt = [{"role": "user", "content": ""}]  # null, and counted as such
    chats = [_conversation(row.get("prompt"), prompt, side, column, where) for column, side in sides.items()]
    spoken = [chat for chat in chats if chat]
    if prompt is not None and not any(_is_whole(side) for side in sides.values()):
        start = len(prompt)
    else:
        start = shared_turns(spoken) if spoken else 0
    shared = spoken[0][:start] if spoken else prompt or []
    return shared, [_answer(chat[start:]) for chat in chats]


def _prompt(given: Any, where: str) -> Conversation:
    """The prompt column as whole turns that end with the user's."""
    if not isinstance(given, list):
        text = text_in({"prompt": given}, "prompt", where)
        turns = parse_transcript(text) if is_transcript(text) else [{"role": "user", "content": text}]
        return turns[:-1] if turns[-1]["role"] == "assistant" else turns  # opened, for the response to go on
    turns = checked_messages(given, "prompt", where)
    if turns and turns[-1]["role"] != "user":
        raise UserError(
            f"{where}, column prompt: it ends with a turn of the {turns[-1]['role']}, expected the user's; move "
            "an answer that is begun there into the responses"
        )
    return turns or [{"role": "user", "content": ""}]


def _conversation(given: Any, prompt: Conversation | None, side: Any, column: str, where: str) -> Conversation:
    """One side as a whole conversation; empty where the side is."""
    if _is_empty(side):
        return []
    turns = [side] if isinstance(side, Mapping) else side
    if isinstance(turns, list):
        if not _is_whole(turns):
            return [*(prompt or []), *checked_messages(turns, column, where, first=("assistant",))]
        system = [message for message in prompt or [] if message["role"] == "system"]
        whole = checked_messages(turns, column, where)
        if not whole:  # an empty system message alone
            return []
        return whole if whole[0]["role"] == "system" else system + whole
    text = text_in({column: side}, column, where)
    if is_transcript(text):
        return parse_transcript(text)
    if is_transcript(given):
        opened = given if parse_transcript(given)[-1]["role"] == "assistant" else f"{given}\n\nAssistant:"
        return parse_transcript(opened + text)
    return [*(prompt or []), {"role": "assistant", "content": text}]


def _is_whole(side: Any) -> bool:
    """Whether a side brings its own prompt."""
    if isinstance(side, list) and side and isinstance(side[0], Mapping):
        return side[0].get("role", side[0].get("from")) in [*USER_NAMES, "system"]
    return is_transcript(side)


def _is_empty(side: Any) -> bool:
    return side is None or side == [] or (isinstance(side, str) and not side.strip())


def _answer(turns: Conversation) -> Conversation:
    """A response up to its last assistant turn, which is the last that can be learned; empty where one says nothing."""
    while turns and turns[-1]["role"] != "assistant":
        turns = turns[:-1]
    empty = any(not turn["content"].strip() for turn in turns if turn["role"] == "assistant")
    return [] if empty else turns
