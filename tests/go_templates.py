"""The part of Go's text/template that our Modelfiles use, executed as Ollama does: trimming, range, if, strings.

Checked by hand against Go's own engine (1.19): the same texts for every template in tests/chat_templates.py.
"""

from __future__ import annotations

import json
import re
from typing import Any

ACTION = re.compile(r'\{\{(-?)((?:"(?:\\.|[^"\\])*"|[^"}])*)\}\}')


def execute(template: str, messages: list[dict[str, str]]) -> str:
    """The template's text for these messages; anything that it does not know is an error."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    parts: list[Any] = []  # texts, and actions as 1-tuples
    end = 0
    for action in ACTION.finditer(template):
        text = template[end : action.start()]
        parts += [text.rstrip() if action[1] else text, (action[2].strip(),)]
        end = action.end()
    parts.append(template[end:])
    written, rest = run(parts, {"System": system, "Messages": messages}, {})
    assert not rest
    return written


def run(parts: list[Any], root: dict[str, Any], dot: dict[str, str]) -> tuple[str, list[Any]]:
    """Execute up to the {{ end }} or {{ else }} that closes this block; what was written, and what follows."""
    written = ""
    while parts:
        part, *parts = parts
        if isinstance(part, str):
            written += part
        elif part[0] == "end" or part[0].startswith("else"):
            return written, [part, *parts]
        elif part[0] == "range .Messages":
            bodies = [run(parts, root, message) for message in root["Messages"]]
            written += "".join(body for body, _ in bodies)
            parts = run(parts, root, {"role": "", "content": ""})[1][1:]
        elif part[0].startswith("if "):
            body, parts = branches(part[0], parts, root, dot)
            written += body
        elif part[0] == ".Content":
            written += dot["content"]
        else:
            written += json.loads(part[0])
    return written, parts


def branches(condition: str, parts: list[Any], root: dict[str, Any], dot: dict[str, str]) -> tuple[str, list[Any]]:
    """The first branch whose condition holds."""
    chosen = None
    while True:
        holds = chosen is None and true(condition.removeprefix("else "), root, dot)
        body, (closing, *parts) = run(parts, root, dot)
        chosen = body if holds else chosen
        if closing[0] == "end":
            return chosen or "", parts
        condition = closing[0]


def true(condition: str, root: dict[str, Any], dot: dict[str, str]) -> bool:
    if condition == "if not .System":
        return not root["System"]
    role = re.fullmatch(r'if eq \.Role "(\w+)"', condition)
    assert role is not None, condition
    return dot["role"] == role[1]
