"""Numbers and answers on a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.terminal import neutral
from commands.json_file import check_writable

if TYPE_CHECKING:  # it imports numpy, and flags are parsed before anything heavy is
    from auto_bot_tuner.evaluation.intervals import Share

WIDTH = 80
PICTURES = (".png", ".svg", ".pdf")

# key of a measure → (what people read, how its number is written)
MEASURES = {
    "right": ("right", "{:.1%}"),
    "ended": ("ended by itself", "{:.0%}"),
    "mean_tokens": ("tokens each", "{:.1f}"),
    "mean_words": ("words each", "{:.1f}"),
    "mean_logprob": ("log-probability per token", "{:.3f}"),
    "unique": ("different answers", "{:.0%}"),
    "empty": ("empty answers", "{:.0%}"),
    "distinct_1": ("different words", "{:.0%}"),
    "distinct_2": ("different pairs of words", "{:.0%}"),
    "distinct_3": ("different triples of words", "{:.0%}"),
    "repetition": ("loops: 4 words said again", "{:.1%}"),
    "self_repetition": ("stock phrases: 4 words shared", "{:.1%}"),
    "perplexity": ("perplexity", "{:,.3f}"),
    "loss": ("loss, nats per token", "{:.4f}"),
    "bits_per_byte": ("bits per byte", "{:.4f}"),
    "num_tokens": ("tokens scored", "{:,}"),
}


def measure_row(key: str, *values: Any) -> list[str]:
    """A measure's row: its name, and each value written as that measure is; "-" where there is none."""
    name, form = MEASURES.get(key, (key, "{:.4g}"))
    return [name, *("-" if value is None else form.format(value) for value in values)]


def table(title: str, values: Mapping[str, Any]) -> None:
    """Measures by their keys, and their values."""
    columns(title, [], [measure_row(key, value) for key, value in values.items()])


def share_rows(shares: Mapping[str, Share]) -> list[list[str]]:
    """Name, share, how many of how many, and its interval."""
    rows = []
    for name, share in shares.items():
        low, high = share.interval
        k = f"{share.k:g}" if share.k == int(share.k) else f"{share.k:.1f}"
        rows.append([name, f"{share.value:.1%}", f"{k} of {share.n:,}", f"{low:.1%} to {high:.1%}"])
    return rows


def columns(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any] | None]) -> None:
    """A table whose first column is names and whose others are values, under `heads`; None draws a rule.

    Names may come from data, so nothing in them is obeyed: no markup, no control character.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    for line in title.split("\n"):
        print(textwrap.fill(neutral(line), WIDTH, break_long_words=False, break_on_hyphens=False))
    grid = Table(show_header=bool(heads))
    for i, head in enumerate(heads or [""] * len(next(row for row in rows if row is not None))):
        grid.add_column(Text(neutral(head)), justify="right" if i else "left", overflow="fold")
    for row in rows:
        if row is None:
            grid.add_section()
        else:
            grid.add_row(*(Text(neutral(str(cell))) for cell in row))
    Console().print(grid)


def print_exchange(prompt: str, response: str, remark: str) -> None:
    print(f"> {neutral(prompt)}\n{neutral(response).strip()} {remark}\n")


def check_picture(name: str) -> None:
    """A wrong name of the picture is known before the work."""
    check_writable(name, "--plot")
    if name and Path(name).suffix.lower() not in PICTURES:
        raise UsageError(f"--plot {name}: the name must end in {', '.join(PICTURES)}")


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` places spread evenly over `count`: data is often sorted, and its beginning says little."""
    return sorted({i * count // wanted for i in range(min(count, wanted))}) if wanted else []
