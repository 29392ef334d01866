"""`download list`: the models and data sets that need no network, bundled or fetched before."""

from __future__ import annotations

import time
from typing import Any

from auto_bot_tuner.utils.terminal import neutral

DAY = 24 * 60 * 60


def show_list() -> dict[str, Any]:
    """Print the table; the record for `--json`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from auto_bot_tuner.hub.cache import hub_folder
    from auto_bot_tuner.utils.paths import short
    from auto_bot_tuner.utils.sizes import readable_size

    entries = [entry for kind in ("model", "dataset") for entry in [*bundled(kind), *downloaded(kind)]]
    table = Table(show_edge=False, pad_edge=False)
    for head, style in (("name", {"overflow": "fold"}), ("what", {}), ("from", {}), ("size", {}), ("used", {})):
        table.add_column(head, justify="right" if head in ("size", "used") else "left", **style)  # type: ignore[arg-type]
    for before, entry in zip([None, *entries], entries, strict=False):
        if before and before["kind"] != entry["kind"]:
            table.add_section()
        what = {"model": "model", "dataset": "data set"}[entry["kind"]]
        size, used = readable_size(entry["size_bytes"]), ago(entry["last_used"])
        table.add_row(Text(neutral(entry["name"])), what, entry["from"], size, used)
    Console(highlight=False).print(table)
    fetched = [entry for entry in entries if entry["from"] == "hub"]
    total = sum(entry["size_bytes"] for entry in fetched)
    if fetched:
        print(
            f"\nFrom the hub: {readable_size(total)}, below {short(hub_folder().parent)}; to delete: hf cache rm --help"
        )
    else:
        print("\nNothing from the hub yet; to fetch something: python main.py download model gpt2")
    return {"entries": entries, "cache": str(hub_folder()), "size_bytes": total}


def bundled(kind: str) -> list[dict[str, Any]]:
    from auto_bot_tuner.assets import BUNDLED_DATASETS, BUNDLED_MODELS, FOLDER

    found = []
    for name in BUNDLED_MODELS if kind == "model" else BUNDLED_DATASETS:
        size = sum(path.stat().st_size for path in (FOLDER / name).rglob("*") if path.is_file())
        found.append(record(name, kind, "bundled", size, str(FOLDER / name)))
    return found


def downloaded(kind: Any) -> list[dict[str, Any]]:
    from auto_bot_tuner.hub.cache import cached

    return [record(e.name, kind, "hub", e.size_bytes, str(e.path), e.last_used) for e in cached(kind)]


def record(name: str, kind: str, source: str, size: int, path: str, used: float | None = None) -> dict[str, Any]:
    return {"name": name, "kind": kind, "from": source, "size_bytes": size, "last_used": used, "path": path}


def ago(moment: float | None) -> str:
    """When it was used last, as coarsely as one decides what to delete."""
    if moment is None:
        return ""
    days = int((time.time() - moment) / DAY)
    return {0: "today", 1: "yesterday"}.get(days, f"{days:,} days ago")
