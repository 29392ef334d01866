"""Numbers and answers on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from auto_bot_tuner.utils.terminal import neutral


def table(title: str, values: Mapping[str, Any]) -> None:
    """Names and their values: a number with four decimals, anything else as it is."""
    columns(title, [], [(name, value) for name, value in values.items()])


def columns(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any] | None]) -> None:
    """A table whose first column is names and whose others are values, under `heads`; None draws a rule."""
    from rich.console import Console
    from rich.table import Table

    print(title)
    grid = Table(show_header=bool(heads))
    for i, head in enumerate(heads or [""] * len(rows[0] or [])):
        grid.add_column(head, justify="right" if i else "left")
    for row in rows:
        if row is None:
            grid.add_section()
        else:
            grid.add_row(*(f"{cell:,.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(grid)


def print_exchange(prompt: str, response: str, remark: str) -> None:
    print(f"> {neutral(prompt)}\n{neutral(response).strip()} {remark}\n")
