"""Which text a conversation becomes: the chat template, chosen and rendered.

First station of a row after `formats.py`: messages → text. `prompt_format.py` cuts that text into
segments and turns them into tokens.
"""

from __future__ import annotations

from typing import Any

from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.paths import expanded

Message = dict[str, str]
Conversation = list[Message]

# Written with existing tokens only: a new token would have a random embedding, and a short (or LoRA) run
# cannot teach it. The answer ends with the tokenizer's own end token, which the model has met before.
BUILT_IN_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] + '\n\n' }}"
    "{%- elif message['role'] == 'user' -%}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{ '### Response:\n' + message['content'] + eos_token }}{{ '' if loop.last else '\n\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '### Response:\n' }}{%- endif -%}"
)
# As every published template does: other tools add no BOS to what a template has written.
BUILT_IN_BOS = "{{- bos_token -}}"
USE_BUILT_IN = "--chat-template builtin"


class ConversationError(UserError):
    """One conversation of a batch cannot be rendered; `index` is its position in that batch."""

    def __init__(self, index: int, reason: str):
        super().__init__(reason)
        self.index = index
        self.reason = reason


def choose_template(tokenizer: Any, chat_template: str = "") -> str:
    """The Jinja source to use: a file or the word `builtin` where given, else the tokenizer's own, else the built-in.

    Raises `UserError` for a file that is not there, and for a tokenizer that could never end an answer.
    """
    if chat_template and chat_template != "builtin":
        try:
            return expanded(chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"chat template {chat_template!r} cannot be read ({type(error).__name__}): "
                f"name a UTF-8 file with a Jinja template, or use {USE_BUILT_IN}"
            ) from error
    if tokenizer.chat_template and not chat_template:
        # A dict of several named templates: `get_chat_template` picks the one for plain talk.
        return str(tokenizer.get_chat_template())
    if tokenizer.eos_token is None:
        raise UserError("the tokenizer has no eos_token, so no answer could end: set one, or give it a chat template")
    return BUILT_IN_BOS + BUILT_IN_TEMPLATE if own_bos(tokenizer) else BUILT_IN_TEMPLATE


def own_bos(tokenizer: Any) -> list[int]:
    """[bos] where the tokenizer itself puts it before a text, else []: what the model was pre-trained on."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def render(tokenizer: Any, template: str, conversations: list[Conversation], open_turn: bool) -> list[str]:
    """Each conversation as text, with the assistant's turn opened at the end where `open_turn`.

    Raises `ConversationError` with the position of the first conversation that the template refuses.
    """
    from jinja2 import TemplateError

    def apply(batch: list[Conversation]) -> list[str]:
        return list(
            tokenizer.apply_chat_template(
                batch, chat_template=template, tokenize=False, add_generation_prompt=open_turn
            )
        )

    # Templates are programs: besides raising on purpose they may index, add or call what is not there.
    refusals = (TemplateError, TypeError, ValueError, KeyError, IndexError)
    try:
        return apply(conversations) if conversations else []
    except refusals:
        pass  # one of them: render one by one to say which
    for index, conversation in enumerate(conversations):
        try:
            apply([conversation])
        except refusals as error:
            reason = " ".join(str(error).split())
            raise ConversationError(
                index, f"the chat template refuses this conversation ({reason}); mend the row or use {USE_BUILT_IN}"
            ) from error
    raise AssertionError("the template failed on a batch but on none of its conversations")
