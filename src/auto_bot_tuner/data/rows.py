"""`Rows`: raw rows of one or more sources, each of which still knows where it came from.

After a shuffle or a mix "row 17" helps nobody; "alpaca.jsonl line 212" does.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, overload

from auto_bot_tuner.utils.errors import UsageError

ROWS_PER_CALL = 1000  # of a column store or a tokenizer: enough to keep it busy, little enough to forget


class Source(NamedTuple):
    """The rows of one file or split: a list, or a `datasets.Dataset` (memory-mapped, read in batches)."""

    name: str
    rows: Sequence[Any]
    places: Sequence[str]  # how a person finds each row; empty: "row i"


class Rows(Sequence[Any]):
    """A selection of rows from sources: `len`, `rows[i]`, `rows[a:b]` (a list), and `where(i)`."""

    def __init__(self, sources: list[Source], order: Sequence[tuple[int, int]] | None = None):
        self.sources = sources
        # (source, row in it) of each row, so that selecting and mixing move no data.
        everything = ((s, i) for s, source in enumerate(sources) for i in range(len(source.rows)))
        self.order = list(everything if order is None else order)

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, int):
            source, row = self.order[index]
            return self.sources[source].rows[row]
        wanted = self.order[index]
        fetched = {s: self._fetch(s, [row for source, row in wanted if source == s]) for s in {s for s, _ in wanted}}
        return [next(fetched[source]) for source, _ in wanted]

    def _fetch(self, source: int, indices: list[int]) -> Any:
        rows = self.sources[source].rows
        if isinstance(rows, list):
            return (rows[i] for i in indices)
        # Arrow is columnar: one gather per batch is some thirty times faster than row by row.
        columns = rows[indices]  # type: ignore[call-overload]
        return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))

    def where(self, index: int) -> str:
        """Where row `index` comes from, as a person finds it."""
        source, row = self.order[index]
        name, _, places = self.sources[source]
        return f"{name} {places[row] if places else f'row {row}'}"

    def shares(self) -> dict[str, int]:
        """How many rows come from each source, by its name."""
        counts = Counter(source for source, _ in self.order)
        return {self.sources[source].name: count for source, count in sorted(counts.items())}

    def select(self, indices: Sequence[int]) -> Rows:
        """The rows at `indices`, in that order."""
        return Rows(self.sources, [self.order[i] for i in indices])


def joined(parts: list[Rows]) -> Rows:
    """All rows of all parts, part after part."""
    sources: list[Source] = []
    order: list[tuple[int, int]] = []
    for part in parts:
        order += [(source + len(sources), row) for source, row in part.order]
        sources += part.sources
    return Rows(sources, order)


def each_row(dataset: Any) -> Iterator[Any]:
    """Every raw row, read in batches: a `datasets.Dataset` is columnar and slow row by row."""
    if isinstance(dataset, (dict, str)) or not hasattr(dataset, "__len__"):
        raise UsageError(
            f"expected a list of rows or one split of a data set, found a {type(dataset).__name__}: "
            "choose a split, e.g. dataset['train']"
        )
    for start in range(0, len(dataset), ROWS_PER_CALL):
        batch = dataset[start : start + ROWS_PER_CALL]
        if isinstance(batch, dict):
            yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
        else:
            yield from batch


@contextmanager
def no_search_for_cycles() -> Iterator[None]:
    """Pause Python's garbage collector for one batch: what is made then is freed without it, as it holds no cycles.

    Thousands of young lists would make it walk over everything loaded (torch, models): a tenth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def whereabouts(dataset: Any) -> Callable[[int], str]:
    """How a person finds row i of any kind of dataset."""
    return dataset.where if isinstance(dataset, Rows) else "row {}".format
