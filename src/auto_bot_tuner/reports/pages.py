"""Templates → one HTML file. The only door by which text gets into a page.

What stands in a report was written by models, data sets and people of unknown intent. Two things keep it text: jinja2
escapes every expression (autoescape is on and no template uses `safe`), and control characters become visible
pictures. A strict Content-Security-Policy stands behind them: the page may load and run nothing at all.
"""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined
from markupsafe import Markup

from auto_bot_tuner.reports import numbers
from auto_bot_tuner.training.durable import write_whole
from auto_bot_tuner.utils.durations import duration
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.terminal import neutral

TEMPLATES = Path(__file__).parent / "templates"
# Half a pair that JSON can spell and UTF-8 cannot; and what HTML takes for no character.
NO_CHARACTERS = dict.fromkeys((*range(0xD800, 0xE000), 0xFFFE, 0xFFFF), 0xFFFD)


def visible(value: Any) -> Any:
    r"""What an expression of a template may put out; jinja2 escapes it afterwards.

    >>> visible("a\x1b[31m")
    'a␛[31m'
    """
    if isinstance(value, (Markup, Undefined)):
        return value
    return neutral(value).translate(NO_CHARACTERS) if isinstance(value, str) else value


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"plain": numbers.plain, "short": numbers.short, "duration": duration}
    made.globals |= {"shown": numbers.shown}
    return made


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template into `path`, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    html = environment().get_template(template).render(**values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, html)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.with_name(f".{path.name}.part").unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
