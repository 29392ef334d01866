"""The page's section about mutants, from the record that `make mutation` leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from proof.places import ROOT
from proof.tables import cell, code, grid

RECORD = ROOT / "proof" / "mutation.json"


def mutation() -> str:
    title = "## Do the tests notice a broken formula?"
    if not RECORD.is_file():
        return f"{title}\n\nNot measured yet: the record that `make mutation` writes is not there."
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    total = {name: sum(file[name] for file in record["files"]) for name in ("mutants", "killed", "timeout", "survived")}
    dead = total["killed"] + total["timeout"]
    silent = sum(not one["why"] for one in record["survivors"])
    explained = "each survivor is explained below" if not silent else f"{silent} survivors below are not explained yet"
    words = f"""{title}

`{record["command"]}` changed one operator, number or condition at a time and ran the tests (finished
{record["made"][:10]}): **{dead:,} of {total["mutants"]:,} mutants were killed, {dead / max(1, total["mutants"]):.1%}**;
{explained}."""
    header = ("file", "mutants", "killed", "ran for ever", "survived", "source")
    rows = [
        [
            f"[{file['file']}](../{file['file']})",
            *(str(file[name]) for name in ("mutants", "killed", "timeout", "survived")),
            freshness(file),
        ]
        for file in record["files"]
    ]
    survivors = [
        [
            f"{'/'.join(one['file'].split('/')[-2:])}, `{one['function']}`",
            code(one["before"]),
            code(one["after"]),
            cell(one["why"]) or "**not explained yet**",
        ]
        for one in record["survivors"]
    ]
    listed = grid(("where", "was", "became", "why it lives"), survivors)
    folded = f"<details><summary>The survivors, one by one</summary>\n\n{listed}\n\n</details>"
    return "\n\n".join([words, grid(header, rows), *([folded] if survivors else [])])


def freshness(file: Mapping[str, Any]) -> str:
    """Whether the record is of the file as it is now."""
    path = ROOT / str(file["file"])
    now = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    then = str(file.get("sha256", ""))
    if not then:
        return "not noted"
    same = now == then
    return f"`{then[:8]}`, as it is now" if same else f"`{then[:8]}`, **changed since**: run `make mutation`"
