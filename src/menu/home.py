"""The first screen: what is here, as a tree from base models to what was made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.panel import Panel
from rich.text import Text

from auto_bot_tuner.utils.inventory import RunFound, run_of_model
from src.menu.advice import Suggestion
from src.menu.screen import columns, console, fit, fit_end
from src.menu.stock import Stock, base_models, short, told

COLOURS = {"finished": "cyan", "interrupted": "yellow", "running": "green", "failed": "red"}
FEWEST = 4  # lines of the panel that even a small screen has
ROOMY = 34  # rows from which on the reasons of the proposals get a panel of their own


def draw(stock: Stock, proposed: list[Suggestion], menu_lines: int) -> None:
    """The panels, as high as they can be with `menu_lines` below them."""
    rows = console.size.height
    next_lines = 2 * len(proposed) + 2 if proposed and rows >= ROOMY else 0
    room = max(FEWEST, rows - menu_lines - next_lines - 2)
    console.print(Panel(picture(stock, room), title="what is here", title_align="left", border_style="cyan"))
    if next_lines:
        lines = Text()
        for number, each in enumerate(proposed):
            lines.append("\n" * bool(number) + fit(each.title, columns() - 4), "bold")
            lines.append("\n  " + fit(each.why, columns() - 6))
        console.print(Panel(lines, title="what makes sense next", title_align="left", border_style="cyan"))


def picture(stock: Stock, room: int) -> Text:
    """The tree and the data sets in `room` lines; what is left out is counted."""
    width = columns() - 4
    lines = list(tree(stock))
    shown = lines if len(lines) < room else lines[: room - 2]
    text = Text()
    widest = max((len(name) for name, _, _ in shown), default=0)
    for name, words, colour in shown:
        line = fit(f"{name:{widest}}  {words}", width)
        text.append(line[:widest], colour)
        text.append(line[widest:] + "\n")
    if len(shown) < len(lines):
        text.append(f"… and {len(lines) - len(shown)} more: Models and data\n")
    text.append(fit("data  " + ", ".join(entry.name for entry in stock.data), width))
    return text


def tree(stock: Stock) -> Iterator[tuple[str, str, str]]:
    """(name with its branch, words, colour) of each model: the bases with what was trained from them below."""
    places = {run.folder.resolve(): run for run in stock.runs}
    children: dict[str | Path, list[RunFound]] = {}
    for run in sorted(stock.runs, key=lambda run: run.changed):  # in the order in which they were made
        start = run_of_model(run.model)
        at = start.resolve() if start is not None else None
        children.setdefault(at if at in places and at != run.folder.resolve() else run.model, []).append(run)
    bases = dict(base_models(stock))
    others = {str(name): "" for name in children if isinstance(name, str) and name not in bases}
    # The bases that something was made of come first: the others are only offers.
    for name, words in sorted({**bases, **others}.items(), key=lambda pair: pair[0] not in children):
        yield name or "(unknown)", words, "bold"
        yield from branches(children, name, "")


def branches(
    children: dict[str | Path, list[RunFound]], parent: str | Path, indent: str
) -> Iterator[tuple[str, str, str]]:
    below = children.get(parent, [])
    for number, run in enumerate(below, start=1):
        is_last = number == len(below)
        name = f"{indent}{'└─' if is_last else '├─'} {fit_end(short(run.folder), columns() // 2 - len(indent))}"
        yield name, without_origin(told(run)), COLOURS[run.status]
        yield from branches(children, run.folder.resolve(), indent + ("   " if is_last else "│  "))


def without_origin(words: str) -> str:
    """In a tree the branch says where it comes from: `SFT from tiny, loss 0.08` → `SFT, loss 0.08`."""
    head, comma, rest = words.partition(", ")
    return head.partition(" from ")[0] + comma + rest
