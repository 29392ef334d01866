r"""Transcripts as Anthropic's HH data writes them: one string, "\n\nHuman: … \n\nAssistant: …", cut into turns.

Rule 8: what two transcripts share is counted in *whole turns*. A common prefix of characters would eat into the
answers wherever both begin with the same word.
"""

from __future__ import annotations

import re

from auto_bot_tuner.data.chat_template import Conversation

SPEAKERS = {"Human": "user", "Assistant": "assistant"}
MARKER = re.compile(r"\n\n(Human|Assistant):")


def is_transcript(text: object) -> bool:
    """Whether a text opens with a human's turn; the empty lines before it are often lost."""
    return isinstance(text, str) and text.lstrip().startswith("Human:")


def parse_transcript(text: str) -> Conversation:
    r"""Turns of a transcript, stripped of the white space around them; the last one may be opened and empty.

    Neighbouring turns of one speaker (there are some in HH) become one, as no chat template knows such.

    >>> parse_transcript("\n\nHuman: Hi\n\nAssistant: Hello\n\nAssistant: Well?")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello\n\nWell?'}]
    """
    _, *parts = MARKER.split("\n\n" + text.lstrip())
    turns: Conversation = []
    for speaker, content in zip(parts[::2], parts[1::2], strict=True):
        role, content = SPEAKERS[speaker], content.strip()
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{content}".strip()
        else:
            turns.append({"role": role, "content": content})
    return turns


def shared_turns(conversations: list[Conversation]) -> int:
    """How many leading messages are the prompt: whole turns that all sides have, up to an assistant's turn to come.

    Where the sides part in a *user's* turn, the answer before it belongs to the responses: a prompt ends
    where the assistant is to speak. 0 where they share no such beginning.
    """
    first, shortest = conversations[0], min(map(len, conversations))
    same = next((i for i in range(shortest) if any(chat[i] != first[i] for chat in conversations)), shortest)
    return next((end for end in range(same, 0, -1) if first[end - 1]["role"] == "user"), 0)
