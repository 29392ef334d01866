r"""What a chat template writes around the messages, found by watching it write.

Templates are programs (Jinja), and Ollama runs another language (Go). Instead of translating the program, its writing
is taken apart: conversations of marks are rendered, and what stands between the marks is what it writes there.

    start · [before_system · SYSTEM · after_system]
          · { before_user · USER · after_user · before_answer · ANSWER · after_answer } … before_answer

Whether that is all of it is then tried on conversations that are no marks; a template that does more (dates, tools, the
system message in the last turn) does not pass, and no Go template is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from auto_bot_tuner.data.chat_template import Conversation, ConversationError, choose_template, own_bos, render
from auto_bot_tuner.utils.errors import UserError

SYSTEM, USER, ANSWER = "Qsystemq", "Quser{}q", "Qanswer{}q"
# What messages may hold: lines, quotes, braces of every template language, marks of other formats, any script.
CONTENTS = (
    "Hi",
    'a "b" \\ {{ .Content }} {% if %}\n\n### x\n<b>',
    "Größe 🙂 12",
    "Sure!\n- one\n- two",
    "<|x|> [/INST]",
)


@dataclass
class ChatShape:
    """The texts around the messages; `bos` is what the tokenizer itself puts in front, so that no template should."""

    bos: str
    start: str  # what stands in front without a system message: the default one of some templates
    before_system: str
    after_system: str
    takes_system: bool
    before_user: str
    after_user: str
    before_answer: str
    after_answer: str
    trims: bool = False  # it strips white space off the ends of messages, which Go templates cannot

    def render(self, conversation: Conversation) -> str:
        """The prompt for the next answer, BOS included."""
        around = {
            "system": (self.before_system, self.after_system),
            "user": (self.before_user, self.after_user),
            "assistant": (self.before_answer, self.after_answer),
        }
        has_system = self.takes_system and any(turn["role"] == "system" for turn in conversation)
        written = [around[turn["role"]][0] + turn["content"] + around[turn["role"]][1] for turn in conversation]
        return self.bos + ("" if has_system else self.start) + "".join(written) + self.before_answer


def shape_of(tokenizer: Any) -> ChatShape:
    """How the tokenizer's chat template writes.

    Raises:
        UserError: it does more than to write texts around messages.
    """
    template = choose_template(tokenizer)
    bos = str(tokenizer.bos_token) if own_bos(tokenizer) else ""

    def prompt(conversation: Conversation) -> str:
        return render(tokenizer, template, [conversation], open_turn=True)[0]

    marks = [(USER if i % 2 == 0 else ANSWER).format(i) for i in range(5)]
    first_user, *between, tail = between_marks(prompt(turns(*marks)), marks)
    first_user = first_user.removeprefix(bos)
    (closed,) = render(tokenizer, template, [turns(*marks)], open_turn=False)
    opened = tail.removeprefix(closed.rpartition(marks[-1])[2])  # what stands before every answer, the next one's too
    # A template that refuses the role has no place for it.
    try:
        with_system = prompt([message("system", SYSTEM), *turns(*marks)])
    except ConversationError:
        takes_system, before_system, system_to_user = False, "", first_user
    else:
        takes_system = True
        before_system, system_to_user = between_marks(with_system, [SYSTEM, *marks])[:2]
    user_to_answer, answer_to_user = between[0], between[1]
    # Where a turn ends and the next begins is our choice, as Go writes them one after the other: what all three ways
    # to a user's message end with belongs to that message.
    before_user = from_control_token(common_end([first_user, system_to_user, answer_to_user]), tokenizer)
    shape = ChatShape(
        bos=bos,
        start=first_user.removesuffix(before_user),
        before_system=before_system.removeprefix(bos),
        after_system=system_to_user.removesuffix(before_user),
        takes_system=takes_system,
        before_user=before_user,
        after_user=user_to_answer.removesuffix(opened),
        before_answer=opened,
        after_answer=answer_to_user.removesuffix(before_user),
    )
    check(shape, prompt)
    return shape


def check(shape: ChatShape, prompt: Any) -> None:
    """Raises `UserError` where the shape writes another text than the template."""
    for conversation in conversations(shape.takes_system):
        if shape.render(conversation) != prompt(conversation):
            raise UserError(
                "this model's chat template does more than to write texts around the messages, and its like in Go "
                "would be a guess, so no Modelfile was made: export --format gguf (the file carries the template, "
                "for llama.cpp --jinja), or train with --chat-template builtin"
            )
    spaced = [message("user", " a\n")]
    shape.trims = shape.render(spaced) != prompt(spaced)


def conversations(with_system: bool) -> list[Conversation]:
    """One to three questions, with and without a system message."""
    talks = [turns(*CONTENTS[:1]), turns(*CONTENTS[1:4]), turns(*CONTENTS)]
    return [*talks, *([[message("system", CONTENTS[1]), *talk] for talk in talks] if with_system else [])]


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def turns(*contents: str) -> Conversation:
    """User, assistant, user …"""
    return [message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)]


def between_marks(text: str, marks: list[str]) -> list[str]:
    """The texts before, between and after the marks.

    Raises:
        UserError: the template does not write every message once, in order.
    """
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found:
            raise UserError(
                "this model's chat template does not write every message in its place, so no Modelfile was made: "
                "export --format gguf, or train with --chat-template builtin"
            )
        parts.append(before)
    return [*parts, text]


def common_end(texts: list[str]) -> str:
    """The longest text that all of them end with."""
    shortest = min(texts, key=len)
    return next(end for i in range(len(shortest) + 1) if all(text.endswith(end := shortest[i:]) for text in texts))


def from_control_token(text: str, tokenizer: Any) -> str:
    """`text` from its first control token on, where it has one: "<|eot_id" and "|>" belong together."""
    known = {*tokenizer.all_special_tokens, *(token.content for token in tokenizer.added_tokens_decoder.values())}
    return text[min((text.index(token) for token in known if token in text), default=0) :]
