"""`convert export --format ollama`: the GGUF file and a Modelfile, by which Ollama prompts as training did."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.export.chat_shape import ChatShape, shape_of
from auto_bot_tuner.export.folder import exported_to, write_card
from auto_bot_tuner.export.gguf_file import write_checked
from auto_bot_tuner.export.gguf_model import context_length
from auto_bot_tuner.export.safetensors_folder import weight_words
from auto_bot_tuner.export.source import Loaded
from auto_bot_tuner.export.words import commands, fact
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.terminal import neutral

# Ollama allots memory for all of it: a model that could see 128k tokens need not take gigabytes at its first start.
LARGEST_CONTEXT = 8192
# Ollama's rule for the names of models.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


def export_ollama(loaded: Loaded, output: Path, name: str, dtype: str) -> list[str]:
    """Write `output`/NAME.gguf, Modelfile and a card; what was found, and how to load it.

    Raises:
        UsageError: `name` is none for a model of Ollama's.
        UserError: this model or its chat template cannot be carried, or the file reads back as another model.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a model in Ollama: give one of letters, digits, - _ . with --name")
    shape = shape_of(loaded.tokenizer)
    with exported_to(output) as aside:
        facts = [*write_checked(loaded, aside / f"{name}.gguf", dtype), *template_words(shape)]
        (aside / "Modelfile").write_text(modelfile(loaded, name, shape), encoding="utf-8")
        write_card(aside, loaded.source.path, "gguf", f"`{name}.gguf` (weights {dtype}) and `Modelfile`.", facts)
    return [
        fact("written", f"{output}/{name}.gguf and Modelfile ({weight_words(loaded.model, dtype)})"),
        *facts,
        *commands(f"ollama create {name} -f {shlex.quote(str(output / 'Modelfile'))}", f"ollama run {name}"),
    ]


def template_words(shape: ChatShape) -> list[str]:
    """What there is to know about the template."""
    words = "writes what the chat template writes (with and without system message, several turns)"
    if shape.bos:
        words += f", but for {neutral(shape.bos)}, which Ollama puts in front by itself"
    if not shape.takes_system:
        words += "; it has no place for a system message, so one is left out"
    if shape.trims:
        words += "; the chat template also strips white space off the ends of messages, which Ollama does not"
    return [fact("template", words)]


def modelfile(loaded: Loaded, name: str, shape: ChatShape) -> str:
    """FROM, TEMPLATE and PARAMETERs."""
    tokenizer = loaded.tokenizer
    stops = [tokenizer.convert_ids_to_tokens(token) for token in PromptFormat.from_tokenizer(tokenizer).stop_token_ids]
    context = min(context_length(loaded.model.config), LARGEST_CONTEXT)
    return "\n".join(
        [
            f"FROM ./{name}.gguf",
            f'TEMPLATE """{go_template(shape)}"""',
            *(f"PARAMETER stop {quoted(stop)}" for stop in dict.fromkeys(stops)),
            f"PARAMETER num_ctx {context}",
            "",
        ]
    )


def go_template(shape: ChatShape) -> str:
    """The shape in Go's text/template, as Ollama runs it: `.Messages` each with `.Role` and `.Content`.

    Texts stand in quotes, inside {{ }}: what is outside is layout, and every action begins by trimming it.
    """
    around = [("user", shape.before_user, shape.after_user), ("assistant", shape.before_answer, shape.after_answer)]
    if shape.takes_system:
        around.insert(0, ("system", shape.before_system, shape.after_system))
    lines = []
    if shape.start and shape.takes_system:
        lines.append(f"{{{{- if not .System }}}}{written(shape.start)}{{{{ end }}}}")
    lines.append(written("" if shape.takes_system else shape.start) + "{{- range .Messages }}")
    for number, (role, before, after) in enumerate(around):
        keyword = "else if" if number else "if"
        lines.append(f'{{{{- {keyword} eq .Role "{role}" }}}}{written(before)}{{{{ .Content }}}}{written(after)}')
    lines += ["{{- end }}", "{{- end }}" + written(shape.before_answer)]
    return "\n".join(lines)


def written(text: str) -> str:
    """An action that writes `text`."""
    return f"{{{{ {quoted(text)} }}}}" if text else ""


def quoted(text: str) -> Any:
    """As a string of Go's: JSON's rules are among them, but for escaped surrogates, which are not used here."""
    return json.dumps(text, ensure_ascii=False)
