"""The page: from measurements to docs/proof.md."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from typing import Any, NamedTuple

from auto_bot_tuner.utils.machine import processor_name
from proof.claims import Bound, Claim, Measured
from proof.contents import FILES, LEFT_OUT, SECTIONS, short
from proof.pitfalls import Pitfall
from proof.places import ROOT, formula_of, place_of

RECORD = ROOT / "proof" / "mutation.json"
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")


class Run(NamedTuple):
    """What one run of `python -m proof` has found."""

    measured: dict[int, Measured]  # by id of the claim
    pitfalls: list[tuple[Pitfall, float, float]]
    seconds: float


def write(run: Run) -> str:
    bounds = sorted({measured.claim.bound for measured in run.measured.values()})
    parts = [opening(run, bounds)]
    for section in SECTIONS:
        rows = [row(run.measured[id(claim)], bounds) for claim in section.claims]
        parts.append(table(section.title, section.words, HEADER, rows))
    parts += [where_toolkits_go_wrong(run), mutation(), left_out()]
    return "\n\n".join(parts) + "\n"


def opening(run: Run, bounds: Sequence[Bound]) -> str:
    cases = sum(measured.cases for measured in run.measured.values())
    tests = len({measured.claim.test for measured in run.measured.values()})
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    reasons = "\n".join(f"- **{letter(i)}**: `{number(bound.size)}`: {bound.why}" for i, bound in enumerate(bounds))
    return f"""# Proof

Each formula of this project: its paper, its line of code, its test, and the largest difference from an independent
oracle and from TRL, measured by the run that wrote this page. Do not take it from us:

    make proof

measures all of it again ({run.seconds:.0f} seconds of one core here), runs the tests that it names, and writes this
page. Where a claim is false it names the claim, leaves the page alone and exits with 1.

| | |
|---|---|
| made | {date.today().isoformat()}, in {run.seconds:.0f} seconds of one core |
| machine | {processor_name()}, one thread, CPU |
| versions | Python {platform.python_version()}, {versions} |
| claims | {len(run.measured)}, over {cases:,} random cases; {tests} tests named, all passed in this run |

**How to read a row.** A case is a random one: seeds, shapes, lengths (of one token too), scales, extreme values,
rubbish under padding. A *difference* is the largest |a - b| / max(1, |b|) over all cases and all entries: absolute for
small numbers, relative for large ones; 0 means the same bits. It is given for value · gradient; a dash: not compared.
The *oracle* knows nothing of our code: the definition in plain Python loops on float64
([proof/oracles](../proof/oracles)), an enumeration, finite differences (all gradients, at twelve entries of each
tensor). The *peer* is TRL's own code on the same tensors ([proof/peers](../proof/peers)). Where it has no such thing,
or means another one, the row says so. A test is named in words; its node id is the title of the link. No difference is
larger than its **bound**:

{reasons}"""


HEADER = ("formula", "paper", "code · test", "cases", "from the oracle", "from TRL", "bound")


def table(title: str, words: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"## {title}\n\n{words}\n\n{grid(header, rows)}"


def row(measured: Measured, bounds: Sequence[Bound]) -> list[str]:
    claim = measured.claim
    oracle = differences(measured.oracle_value, measured.oracle_gradient) if claim.oracle else ""
    peer = differences(measured.peer_value, measured.peer_gradient) if claim.peer else ""
    return [
        f"**{claim.name}**<br>{tex(claim)}",
        paper(claim),
        f"{code_link(claim.of)}<br>{test_link(claim.test)}",
        str(measured.cases),
        f"{oracle}<br>{claim.oracle_is}" if oracle else claim.oracle_is,
        f"{peer}<br>{claim.peer_is}" if peer else claim.peer_is,
        f"{number(claim.bound.size)} ({letter(bounds.index(claim.bound))})",
    ]


def differences(value: float | None, gradient: float | None) -> str:
    return " · ".join("–" if size is None else f"`{number(size)}`" for size in (value, gradient))


def number(size: float) -> str:
    """1.2e-7."""
    return "0" if size == 0 else re.sub(r"e([+-])0*(\d)", r"e\1\2", f"{size:.1e}").replace(".0e", "e")


def letter(place: int) -> str:
    return chr(ord("a") + place)


def tex(claim: Claim) -> str:
    """TeX that survives a table: a bar would end the cell, and between $` and `$ Markdown changes nothing."""
    formula = claim.formula or formula_of(claim.of)
    if formula == "as above":
        return formula
    for bar, name in (("\\|", r"\Vert "), ("|", r"\vert ")):
        formula = formula.replace(bar, name)
    # A formula is never broken by a browser: what a wide space parts stands in lines of its own.
    return "<br>".join(f"$`{part.strip().rstrip(',')}`$" for part in re.split(r"\\q?quad", formula))


def paper(claim: Claim) -> str:
    arxiv = claim.paper.arxiv
    return claim.paper.where + (f", [{arxiv}](https://arxiv.org/abs/{arxiv})" if arxiv else "")


def code_link(definition: Any) -> str:
    place = place_of(definition)
    return f"[`{place.name}`](../{place.file}#L{place.line})"


def test_link(node_id: str) -> str:
    """The test's name as the sentence that it is, so that a narrow column may break it; the node id as a title."""
    file, _, name = node_id.partition("::")
    return f'✓ [{name.removeprefix("test_").replace("_", " ")}](../{file} "{node_id}")'


def where_toolkits_go_wrong(run: Run) -> str:
    rows = [
        [
            f"**{pitfall.name}**",
            pitfall.what,
            pitfall.form.format(theirs),
            pitfall.form.format(ours),
            test_link(pitfall.test),
        ]
        for pitfall, theirs, ours in run.pitfalls
    ]
    words = "Mistakes that look right in the log. Measured in this run, on the toolkits themselves where it says so."
    return table("Where toolkits go wrong", words, ("trap", "what is measured", "there", "here", "test"), rows)


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


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def freshness(file: Mapping[str, Any]) -> str:
    """Whether the record is of the file as it is now."""
    path = ROOT / str(file["file"])
    now = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    then = str(file.get("sha256", ""))
    if not then:
        return "not noted"
    same = now == then
    return f"`{then[:8]}`, as it is now" if same else f"`{then[:8]}`, **changed since**: run `make mutation`"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    return f"`{cell(text).replace('`', chr(39))}`" if text.strip() else "(nothing)"


def left_out() -> str:
    lines = [
        f"- `{short(module)}`: " + "; ".join(f"`{name}` ({why})" for name, why in LEFT_OUT[short(module)].items())
        for module in FILES
        if LEFT_OUT.get(short(module))
    ]
    words = "Every public function of the files that hold mathematics is in a table above, but for these:"
    return f"## Not in a table\n\n{words}\n\n" + "\n".join(lines)
