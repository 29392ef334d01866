"""Rows that are too long: what goes first, what stays (rule 6).

BOS and the system message stay. The oldest whole turns go first, then the start of the last prompt, then the
end of the answer. Cuts are made in the *messages* and the template writes them anew, so what is left is always a
well-formed conversation with its headers; only an answer's end is cut in tokens, and then without an
end token: the model must not learn to stop in the middle of a sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from auto_bot_tuner.data.chat_template import Conversation

if TYPE_CHECKING:
    from auto_bot_tuner.data.prompt_format import Encoded, PromptFormat

# An answer without its question teaches nothing: of the last prompt this share of max_length stays, at most.
KEPT_PROMPT_SHARE = 8


def fit(prompt_format: PromptFormat, messages: Conversation, row: Encoded, max_length: int) -> Encoded:
    """`row`, the tokens of `messages`, cut to `max_length`. It may be left with no trained token at all."""
    kept, row = _drop_oldest_turns(prompt_format, messages, row, max_length)
    if _needed(row) > max_length:
        row = _cut_prompt_start(prompt_format, kept, row, max_length)
    return cut_end(row, max_length)


def cut_end(row: Encoded, max_length: int) -> Encoded:
    """Cut tokens from the end. What stands after the last trained token goes free of charge."""
    row.cut_response = sum(row.trained[max_length:])
    del row.input_ids[max_length:], row.trained[max_length:]
    return row


def _needed(row: Encoded) -> int:
    """The length up to the last trained token: what the template writes after it need not fit."""
    return max((position + 1 for position, trained in enumerate(row.trained) if trained), default=0)


def _drop_oldest_turns(
    prompt_format: PromptFormat, messages: Conversation, row: Encoded, max_length: int
) -> tuple[Conversation, Encoded]:
    """Leave out the fewest oldest turns that make the conversation fit; the last turn always stays."""
    last_answer = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    messages = messages[: last_answer + 1]
    starts = [i for i, message in enumerate(messages) if message["role"] == "user"]
    system = [message for message in messages if message["role"] == "system"]
    turn_lengths = [sum(row.segment_lengths[i : i + 2]) for i in range(0, len(row.segment_lengths) - 1, 2)]
    # Without a look at the system message (it is counted in the first turn) this guess is never too large.
    guess, too_long = 0, _needed(row) - max_length
    while too_long > 0 and guess < len(starts) - 1:
        too_long -= turn_lengths[guess]
        guess += 1
    kept = messages
    for dropped in range(guess, len(starts)):
        if dropped:
            kept = system + messages[starts[dropped] :]
            row = prompt_format.encode(kept)
            row.dropped_turns = dropped
        if _needed(row) <= max_length:
            break
    return kept, row


def _cut_prompt_start(prompt_format: PromptFormat, messages: Conversation, row: Encoded, max_length: int) -> Encoded:
    """Cut the beginning of the last prompt, as little as needed, but for a rest of max_length / 8 tokens."""
    place = next((i for i, message in enumerate(messages) if message["role"] == "user"), None)
    if place is None:
        return row
    content, dropped = messages[place]["content"], row.dropped_turns
    offsets = prompt_format.tokenizer(content, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts = [start for start, _ in offsets["offset_mapping"]]
    removable = max(0, len(starts) - max_length // KEPT_PROMPT_SHARE)
    cut = 0
    # Tokens at the new beginning may merge differently than in the middle of a text: look again, cut more.
    while cut < removable and (excess := _needed(row) - max_length) > 0:
        cut = min(cut + excess, removable)
        shorter = {**messages[place], "content": content[starts[cut] :] if cut < len(starts) else ""}
        row = prompt_format.encode([*messages[:place], shorter, *messages[place + 1 :]])
        row.dropped_turns, row.cut_prompt = dropped, cut
    return row
