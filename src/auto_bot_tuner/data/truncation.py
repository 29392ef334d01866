"""Rows that are too long: what goes first, what stays (rule 6).

BOS and the system message stay. The oldest whole turns go first, then the start of the last prompt, then the
end of the answer. Cuts are made in the *messages* and the template writes them anew, so what is left is always a
well-formed conversation with its headers; only an answer's end is cut in tokens, and then without an
end token: the model must not learn to stop in the middle of a sentence.

A prompt with several responses (a preference pair) is cut once, for the longest of them: the model compares answers
to *one* question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from auto_bot_tuner.data.chat_template import Conversation

if TYPE_CHECKING:
    from auto_bot_tuner.data.prompt_format import Encoded, EncodedGroup, PromptFormat

# An answer without its question teaches nothing: of the last prompt this share of max_length stays, at most.
KEPT_PROMPT_SHARE = 8


def fit(prompt_format: PromptFormat, messages: Conversation, row: Encoded, max_length: int) -> Encoded:
    """`row`, the tokens of `messages`, cut to `max_length`. It may be left with no trained token at all."""
    from auto_bot_tuner.data.prompt_format import EncodedGroup

    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    group = EncodedGroup(messages[:last], [messages[last : last + 1]], [row])
    return fit_group(prompt_format, group, max_length).sides[0]


def fit_group(
    prompt_format: PromptFormat, group: EncodedGroup, max_length: int, max_prompt_length: int | None = None
) -> EncodedGroup:
    """A prompt with its responses, each side cut to `max_length`, all with the same prompt.

    A prompt longer than `max_prompt_length` is shortened first, whether its responses need the room or not.
    """
    if max_prompt_length:
        group = _shorten_prompt(prompt_format, group, lambda g: g.prompt_length - max_prompt_length, kept=1)
    group = _shorten_prompt(
        prompt_format, group, lambda g: _needed(g) - max_length, kept=max_length // KEPT_PROMPT_SHARE
    )
    for side in group.sides:
        cut_end(side, max_length)
    return group


def cut_end(row: Encoded, max_length: int) -> Encoded:
    """Cut tokens from the end. What stands after the last trained token goes free of charge."""
    row.cut_response = sum(row.trained[max_length:])
    del row.input_ids[max_length:], row.trained[max_length:]
    return row


Excess = Callable[["EncodedGroup"], int]  # by how many tokens a group is too long


def _needed(group: EncodedGroup) -> int:
    """The length up to the last trained token of any side: what the template writes after it need not fit."""
    return max(
        (position + 1 for side in group.sides for position, trained in enumerate(side.trained) if trained), default=0
    )


def _shorten_prompt(prompt_format: PromptFormat, group: EncodedGroup, excess: Excess, kept: int) -> EncodedGroup:
    """Oldest turns out, then the start of the last prompt, but for a rest of `kept` tokens."""
    group = _drop_oldest_turns(prompt_format, group, excess)
    return _cut_prompt_start(prompt_format, group, excess, kept) if excess(group) > 0 else group


def _drop_oldest_turns(prompt_format: PromptFormat, group: EncodedGroup, excess: Excess) -> EncodedGroup:
    """Leave out the fewest oldest turns that make the conversation fit; the last turn always stays."""
    starts = [i for i, message in enumerate(group.prompt) if message["role"] == "user"]
    system = [message for message in group.prompt if message["role"] == "system"]
    lengths = group.sides[0].segment_lengths
    turn_lengths = [sum(lengths[i : i + 2]) for i in range(0, len(lengths) - 1, 2)]
    # A guess without a look at the system message, which is counted in the first turn. Tokens may merge otherwise where
    # turns now meet, so it may be one turn too large: one step back.
    guess, too_long = 0, excess(group)
    while too_long > 0 and guess < len(starts) - 1:
        too_long -= turn_lengths[guess]
        guess += 1
    kept = group
    for dropped in range(max(0, guess - 1), len(starts)):
        if dropped:
            kept = group.with_prompt(prompt_format, system + group.prompt[starts[dropped] :], turns=dropped)
        if excess(kept) <= 0:
            break
    return kept


def _cut_prompt_start(prompt_format: PromptFormat, group: EncodedGroup, excess: Excess, kept: int) -> EncodedGroup:
    """Cut the beginning of the last prompt, as little as needed, but for a rest of `kept` tokens."""
    place = next((i for i, message in enumerate(group.prompt) if message["role"] == "user"), None)
    if place is None:
        return group
    content = group.prompt[place]["content"]
    offsets = prompt_format.tokenizer(content, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts = [start for start, _ in offsets["offset_mapping"]]
    removable = max(0, len(starts) - kept)
    cut, shortened = 0, group
    # Tokens at the new beginning may merge differently than in the middle of a text: look again, cut more.
    while cut < removable and (still := excess(shortened)) > 0:
        cut = min(cut + still, removable)
        shorter = {**group.prompt[place], "content": content[starts[cut] :] if cut < len(starts) else ""}
        prompt = [*group.prompt[:place], shorter, *group.prompt[place + 1 :]]
        shortened = group.with_prompt(prompt_format, prompt, tokens=cut)
    return shortened
