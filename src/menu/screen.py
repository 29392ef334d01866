"""The terminal: panels by rich, questions by questionary, and the two ways out of a question.

Ctrl-C is KeyboardInterrupt, and whoever asked goes one step back; Ctrl-D is `Leave`, and the menu ends. Colours only
underline what stands there in words, so nothing is lost without them (NO_COLOR).
"""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import questionary
from prompt_toolkit.completion import PathCompleter
from prompt_toolkit.filters import Always, Condition, IsDone
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import ConditionalContainer, HSplit, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.layout.margins import ConditionalMargin, ScrollbarMargin
from prompt_toolkit.shortcuts import CompleteStyle
from questionary.prompts.common import InquirerControl
from rich.console import Console
from rich.text import Text

from auto_bot_tuner.utils.terminal import neutral

console = Console(highlight=False)

STYLE = questionary.Style(
    [
        ("qmark", "fg:ansicyan bold"),
        ("question", "bold"),
        ("pointer", "fg:ansicyan bold"),
        ("highlighted", "fg:ansicyan bold"),
        ("selected", "fg:ansicyan"),
        ("answer", "fg:ansicyan"),
        ("instruction", ""),
    ]
)
LONG_LIST = 12  # from here on typing filters
MOST_LINES = 4  # of what is said about a choice


class Leave(Exception):
    """Ctrl-D, or the terminal is gone: the menu ends."""


class Option(NamedTuple):
    """A line to choose."""

    title: str
    value: Any
    about: str = ""  # said below the list while the line is chosen


def columns() -> int:
    return console.size.width


def fit(text: str, width: int) -> str:
    """
    >>> fit("checkpoints/demo", 8)
    'checkpo…'
    """
    text = neutral(text)  # names of files and of models are anybody's
    return text if len(text) <= width else text[: width - 1] + "…"


def fit_end(text: str, width: int) -> str:
    """The end of a path tells more than its beginning.

    >>> fit_end("checkpoints/demo", 8)
    '…ts/demo'
    """
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def table(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Two columns as lines that fit the screen.

    >>> table([("a", "first"), ("bcd", "second")])
    ['a    first', 'bcd  second']
    """
    widest = min(max((len(left) for left, _ in rows), default=0), columns() // 2)
    return [fit(f"{fit_end(left, widest):{widest}}  {right}".rstrip(), columns() - 5) for left, right in rows]


def choose(
    question: str, options: Sequence[Option], default: Any = None, out: str = "goes back", stays: bool = True
) -> Any:
    """The value of the chosen line, to begin with `default`'s. Raises KeyboardInterrupt or `Leave`.

    `out` says what Ctrl-C does; `stays`: a line with the answer remains on the screen.
    """
    typing = len(options) >= LONG_LIST
    hints = (f"arrows, Enter{', type to search' if typing else ''}; Ctrl-C {out}", f"Ctrl-C {out}")
    hint = next((hint for hint in hints if len(question) + len(hint) + 6 < columns()), "")
    chosen = next(
        (number for number, option in enumerate(options) if default is not None and option.value == default), 0
    )
    choices = [questionary.Choice(fit(option.title, columns() - 5), number) for number, option in enumerate(options)]
    asked = questionary.select(
        question,
        choices=choices,
        default=choices[chosen],
        style=STYLE,
        use_search_filter=typing,
        use_jk_keys=False,
        show_description=False,
        instruction=f"({hint})" if hint else " ",
    )
    answer: int = ask(with_words(asked, [option.about for option in options]))
    if stays:
        trail(question, options[answer].title.removeprefix("* ").strip().split("  ")[0])
    return options[answer].value


def choose_many(question: str, options: Sequence[Option], chosen: Sequence[Any] = ()) -> list[Any]:
    """The values of the ticked lines."""
    choices = [
        questionary.Choice(fit(option.title, columns() - 8), number, checked=option.value in chosen)
        for number, option in enumerate(options)
    ]
    asked = questionary.checkbox(
        question, choices=choices, style=STYLE, use_jk_keys=False, instruction="(Space ticks, Enter; Ctrl-C: back)"
    )
    answers: list[int] = ask(with_words(asked, [option.about for option in options]))
    trail(question, ", ".join(options[number].title.split("  ")[0] for number in answers) or "none")
    return [options[number].value for number in answers]


def trail(question: str, answer: str) -> None:
    """What stays of a question: the list goes, the answer remains."""
    console.print(Text.assemble(("? ", "bold cyan"), (question, "bold"), " ", (answer.strip(), "cyan")))


def type_in(question: str, shown: str = "", is_path: bool = False) -> str:
    """A line of text, `shown` to begin with. Tab completes paths."""
    files = {"completer": PathCompleter(expanduser=True), "complete_style": CompleteStyle.READLINE_LIKE}
    asked = questionary.text(
        question, default=shown, style=STYLE, complete_while_typing=False, **(files if is_path else {})
    )
    return str(ask(asked)).strip()


def with_words(asked: questionary.Question, words: Sequence[str]) -> questionary.Question:
    """The question with Ctrl-D, a scroll bar where the list is longer than the screen, and words on the chosen line.

    questionary would put the words behind the last line, where a long list hides them: they get lines of their own.
    """
    application = asked.application
    application.erase_when_done = True
    bindings: Any = application.key_bindings
    bindings.add(Keys.ControlD, eager=True)(lambda event: event.app.exit(exception=Leave()))
    windows = list(application.layout.find_all_windows())
    window = next(window for window in windows if isinstance(window.content, InquirerControl))
    control: Any = window.content

    def is_cut() -> bool:
        info = window.render_info
        return info is not None and info.content_height > info.window_height

    window.right_margins = [ConditionalMargin(ScrollbarMargin(display_arrows=True), Condition(is_cut))]
    window.dont_extend_height = Always()  # what is said about a line stands right below the list
    width = columns() - 4
    folded = [textwrap.wrap(text, width)[:MOST_LINES] for text in words]
    height = max(map(len, folded), default=0)
    if height:

        def about() -> str:
            lines = folded[control.get_pointed_at().value]
            return "\n" + "\n".join(f"   {line}" for line in lines)

        below = Window(FormattedTextControl(about), height=height + 1)
        container: Any = application.layout.container
        assert isinstance(container, HSplit)
        container.children.append(ConditionalContainer(below, filter=~IsDone()))
    return asked


def ask(asked: questionary.Question) -> Any:
    """The answer; questionary's own two exceptions become ours."""
    try:
        return asked.unsafe_ask()
    except EOFError:
        raise Leave from None


def walk(steps: Sequence[Callable[[], None]]) -> None:
    """Carry out questions one after the other; Ctrl-C at one asks the one before again, at the first it goes on up."""
    at = 0
    while at < len(steps):
        try:
            steps[at]()
        except KeyboardInterrupt as stop:
            if at == 0 or type(stop) is not KeyboardInterrupt:
                raise
            at -= 1
        else:
            at += 1


@contextlib.contextmanager
def one_step() -> Iterator[None]:
    """Ctrl-C inside the block leaves the block. (SIGTERM arrives as a subclass of the same exception, and ends all.)"""
    try:
        yield
    except KeyboardInterrupt as stop:
        if type(stop) is not KeyboardInterrupt:
            raise


def say(text: str = "", style: str = "") -> None:
    """A line of ours, folded at words."""
    console.print(Text(text, style=style))


def complain(text: str) -> None:
    say(text, "red")


def verbatim(line: str) -> None:
    """A line to copy: never folded by us, for a fold would be copied too."""
    console.print(Text(line, style="bold"), soft_wrap=True)


def is_dumb() -> bool:
    """Whether the terminal cannot move its cursor."""
    return os.environ.get("TERM", "") in ("", "dumb") and os.name != "nt"
