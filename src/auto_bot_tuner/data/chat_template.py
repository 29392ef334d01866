"""Which text a conversation becomes: the chat template, chosen and rendered.

First station of a row after `formats.py`: messages → text. `prompt_format.py` cuts that text into
segments and turns them into tokens.
"""

from __future__ import annotations

from textwrap import shorten
from typing import Any

from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.patience import at_most, memory_at_most

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
MAX_TEMPLATE = 1_000_000  # characters; the longest that models come with have some ten thousand
# Rendering takes some 50 µs a conversation. On the busiest machine it does not take this long.
SECONDS, SECONDS_EACH = 10.0, 0.1
MEMORY = 2 * 2**30  # bytes for the texts of a batch: a template can multiply a text by a billion


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
            return checked(expanded(chat_template).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"chat template {chat_template!r} cannot be read ({type(error).__name__}): "
                f"name a UTF-8 file with a Jinja template, or use {USE_BUILT_IN}"
            ) from error
    if tokenizer.chat_template and not chat_template:
        # A dict of several named templates: `get_chat_template` picks the one for plain talk.
        return checked(str(tokenizer.get_chat_template()))
    if tokenizer.eos_token is None:
        raise UserError("the tokenizer has no eos_token, so no answer could end: set one, or give it a chat template")
    return BUILT_IN_BOS + BUILT_IN_TEMPLATE if own_bos(tokenizer) else BUILT_IN_TEMPLATE


def checked(template: str) -> str:
    """A template as one may be written. It is a program of its author's, which comes with models and runs here.

    transformers runs it in jinja2's sandbox: it reaches no file, no module and no attribute of Python's own; loops
    and texts of gigabytes are broken off by `render`. What is left is one operation of hours, as 9 ** 9 ** 9 is.

    Raises:
        UserError: it is larger than a template is, or takes powers.
    """
    from jinja2 import Environment, TemplateError, nodes

    cause = f"is larger than a template can be ({MAX_TEMPLATE:,} characters)" if len(template) > MAX_TEMPLATE else ""
    try:
        if not cause and "**" in template and next(Environment().parse(template).find_all(nodes.Pow), None):
            cause = "takes powers of numbers (**), with which no conversation is written"
    except (TemplateError, RecursionError):
        pass  # rendering it says what is wrong, and where
    if cause:
        raise UserError(f"the chat template {cause}: use {USE_BUILT_IN}, or another template")
    return template


def own_bos(tokenizer: Any) -> list[int]:
    """[bos] where the tokenizer itself puts it before a text, else []: what the model was pre-trained on."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def render(tokenizer: Any, template: str, conversations: list[Conversation], open_turn: bool) -> list[str]:
    """Each conversation as text, with the assistant's turn opened at the end where `open_turn`.

    Raises `ConversationError` with the position of the first conversation that the template refuses.
    """
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.exceptions import SecurityError

    def apply(batch: list[Conversation]) -> list[str]:
        return list(
            tokenizer.apply_chat_template(
                batch, chat_template=template, tokenize=False, add_generation_prompt=open_turn
            )
        )

    # Templates are programs: besides raising on purpose they may index, add or call what is not there.
    refusals = (
        *(TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError),
        *(RecursionError, MemoryError),
    )
    too_long = f"the chat template takes forever to write a conversation: use {USE_BUILT_IN}, or another template"
    with at_most(SECONDS + SECONDS_EACH * len(conversations), too_long), memory_at_most(MEMORY):
        try:
            return apply(conversations) if conversations else []
        except refusals:
            pass  # one of them: render one by one to say which
        for index, conversation in enumerate(conversations):
            try:
                apply([conversation])
            except refusals as error:
                reason = shorten(" ".join(str(error).split()) or type(error).__name__, 200, placeholder=" …")
                if isinstance(error, MemoryError):
                    reason = "it writes more than two gigabytes"
                if isinstance(error, (TemplateSyntaxError, SecurityError)):  # of every row: none can be mended
                    cure = f"mend it or use {USE_BUILT_IN}"
                    raise UserError(f"the chat template cannot run ({reason}): {cure}") from error
                raise ConversationError(
                    index, f"the chat template refuses this conversation ({reason}); mend the row or use {USE_BUILT_IN}"
                ) from error
    raise AssertionError("the template failed on a batch but on none of its conversations")
