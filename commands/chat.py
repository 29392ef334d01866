"""Talk with a model in the terminal: it answers as it writes, in the checkpoint's own chat template."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Generator
from dataclasses import field, replace
from typing import Any, Literal

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UserError, check_words
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.terminal import neutral

HELP = """\
/reset         forget the conversation (the system message stays)
/system TEXT   set the system message; without TEXT: remove it
/save FILE     append the conversation to FILE as one line of JSON, a row to train on
/help          this list
/quit          leave; so does Ctrl-D. Ctrl-C stops an answer.
A message that begins with / is sent with a space before it."""


@dataclass(config=STRICT, kw_only=True)
class Arguments:
    """Talk with a model."""

    # Hub id, local folder, run folder, LoRA checkpoint folder, or a bundled name such as tiny.
    model: tyro.conf.Positional[str]
    # System message: who the assistant is to be.
    system: str = ""
    # File with a Jinja chat template, or the word builtin. Empty: the model's own, else the built-in one.
    chat_template: str = ""
    # Where to compute: auto, cpu, cuda or mps.
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    # Let the model's repository run its own Python code on this machine.
    trust_remote_code: bool = False
    # How the answers are written: livelier than the greedy default of measurements.
    generation: GenerationConfig = field(default_factory=lambda: GenerationConfig(temperature=0.7, max_new_tokens=512))


def run(arguments: Arguments) -> None:
    """Read messages and answer them until the input ends. Piped input works too: one message a line, answers on stdout.

    Raises:
        UserError: the model cannot be loaded; or, with piped input, a message cannot be answered.
    """
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    # Whatever the locale: a model writes any character, and a pipe may hold any byte.
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    model, tokenizer, device = load_model_and_tokenizer(
        arguments.model,
        arguments.device,
        chat_template=arguments.chat_template,
        trust_remote_code=arguments.trust_remote_code,
    )
    chat = Chat(model, tokenizer, arguments.system, arguments.generation)
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - editing and history of the input line, where the platform has it
        note(f"{arguments.model} on {device}. /help lists the commands, Ctrl-D leaves.")
    while (line := read_line(at_terminal)) is not None:
        try:
            if line.startswith("/"):
                if not chat.obey(line):
                    return
            elif line.strip():
                chat.answer(line.strip())
        except UserError as error:
            if not at_terminal:
                raise
            note(str(error))


def read_line(at_terminal: bool) -> str | None:
    """The next line of input, or None at its end."""
    try:
        return input("\nyou> " if at_terminal else "")
    except EOFError:
        return None
    except KeyboardInterrupt as stop:
        if not at_terminal or type(stop) is not KeyboardInterrupt:  # SIGTERM arrives as a subclass
            raise
        note("\n(Ctrl-D or /quit leaves)")
        return ""


class Chat:
    """One conversation with one model."""

    def __init__(self, model: Any, tokenizer: Any, system: str, config: GenerationConfig) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.system = system
        self.turns: list[dict[str, str]] = []  # user, assistant, user, …
        self.answers = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns

    def answer(self, text: str) -> None:
        """Stream the answer to a message; both become part of the conversation.

        Ctrl-C stops the answer, and what was said so far is kept. A message that cannot be answered is forgotten.
        """
        from auto_bot_tuner.evaluation.generation import stream_response

        self.turns.append({"role": "user", "content": text})
        said: list[str] = []
        is_answered = False
        # Every answer draws from its own stream: the same question again may be answered otherwise.
        config = replace(self.config, seed=self.config.seed + self.answers)
        try:
            self.forget_what_does_not_fit()
            ended = show(stream_response(self.model, self.tokenizer, self.messages, config), said)
            is_answered = True
            if not ended:
                note("(cut off: --max-new-tokens or the model's context was reached)")
            elif not "".join(said).strip():
                note("(the model ended its answer without a word)")
        except KeyboardInterrupt as stop:
            if type(stop) is not KeyboardInterrupt:
                raise
            print()
            note("(stopped)")
        finally:
            if said or is_answered:
                self.answers += 1
                self.turns.append({"role": "assistant", "content": "".join(said)})
            else:
                self.turns.pop()

    def forget_what_does_not_fit(self) -> None:
        """Drop the oldest whole turns until the prompt leaves room for an answer, and say so.

        Raises UserError for a message that leaves no room even alone; then nothing is dropped.
        """
        from auto_bot_tuner.data.prompt_format import PromptFormat
        from auto_bot_tuner.evaluation.engine import context_limit

        limit = context_limit(self.model)
        if limit is None:
            return
        room = limit - min(self.config.max_new_tokens, limit // 4)  # a quarter of the context is kept for the answer
        prompt_format = PromptFormat.from_tokenizer(self.tokenizer)
        all_turns = self.turns
        while (length := len(prompt_format.encode_prompt(self.messages))) > room and len(self.turns) > 2:
            self.turns = self.turns[2:]
        if length >= limit:
            self.turns = all_turns
            raise UserError(f"this message needs {length} tokens and the model's context is {limit}: shorten it")
        if forgotten := (len(all_turns) - len(self.turns)) // 2:
            note(f"(the model's context of {limit} tokens is full: the oldest {forgotten} turn(s) were forgotten)")

    def obey(self, line: str) -> bool:
        """Carry out a /command. False: leave."""
        name, _, rest = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/reset": self.reset,
            "/system": self.set_system,
            "/save": self.save,
            "/help": lambda _: note(HELP),
        }
        if name in ("/quit", "/exit"):
            return False
        if name not in commands:
            raise UserError(f"unknown command {name}: /help lists them; begin with a space to send it as a message")
        commands[name](rest.strip())
        return True

    def reset(self, _: str) -> None:
        self.turns = []
        note("(forgotten)")

    def set_system(self, text: str) -> None:
        self.system = text
        note("(system message set)" if text else "(system message removed)")

    def save(self, name: str) -> None:
        if not name:
            raise UserError("/save needs a file name: /save talk.jsonl")
        if not self.turns:
            raise UserError("there is nothing to save yet")
        check_words([name])
        try:
            with expanded(name).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {name} ({error.strerror}): choose another file") from error
        note(f"(appended to {name})")


def show(pieces: Generator[str, None, bool], said: list[str]) -> bool:
    """Print the pieces as they come and collect them in `said`; did the answer end by itself?"""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            print(flush=True)
            return bool(end.value)
        said.append(piece)
        print(neutral(piece), end="", flush=True)


def note(text: str) -> None:
    """Words of ours go to stderr: a pipe on stdout gets the answers alone."""
    print(neutral(text), file=sys.stderr, flush=True)
