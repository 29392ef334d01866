"""The page: from measurements to docs/proof.md."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from typing import Any, NamedTuple

from auto_bot_tuner.utils.machine import processor_name
from proof.claims import Bound, Claim, Measured
from proof.contents import FILES, LEFT_OUT, SECTIONS, short
from proof.mutants import mutation
from proof.pitfalls import Pitfall
from proof.places import formula_of, place_of
from proof.tables import grid, table

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")


class Run(NamedTuple):
    """What one run of `python -m proof` has found."""

    measured: dict[int, Measured]  # by id of the claim
    pitfalls: list[tuple[Pitfall, float, float]]
    seconds: float


def write(run: Run) -> str:
    bounds = sorted({measured.claim.bound for measured in run.measured.values()})
    parts = [opening(run), overview(run), how_to_read(bounds)]
    for section in SECTIONS:
        rows = [row(run.measured[id(claim)], bounds) for claim in section.claims]
        parts.append(table(section.title, section.words, HEADER, rows))
    parts += [where_toolkits_go_wrong(run), mutation(), left_out()]
    return "\n\n".join(parts) + "\n"


def opening(run: Run) -> str:
    cases = sum(measured.cases for measured in run.measured.values())
    tests = len({measured.claim.test for measured in run.measured.values()})
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
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
| claims | {len(run.measured)}, over {cases:,} random cases; {tests} tests named, all passed in this run |"""


def how_to_read(bounds: Sequence[Bound]) -> str:
    reasons = "\n".join(f"- **{letter(i)}**: `{number(bound.size)}`: {bound.why}" for i, bound in enumerate(bounds))
    return f"""**How to read a row.** A case is a random one: seeds, shapes, lengths (of one token too), scales, extreme
values, rubbish under padding. A *difference* is the largest |a - b| / max(1, |b|) over all cases and all entries:
absolute for small numbers, relative for large ones; 0 means the same bits. It is given for value · gradient; a dash:
not compared. The *oracle* knows nothing of our code: the definition in plain Python loops on float64
([proof/oracles](../proof/oracles)), an enumeration, finite differences (all gradients, at twelve entries of each
tensor). The *peer* is TRL's own code on the same tensors ([proof/peers](../proof/peers)). Where it has no such thing,
or means another one, the row says so. A test is named in words; its node id is the title of the link. No difference is
larger than its **bound**:

{reasons}"""


def overview(run: Run) -> str:
    """How much was compared of each method, and what came nearest to its bound."""
    rows = []
    for section in SECTIONS:
        found = [run.measured[id(claim)] for claim in section.claims]
        share, name = max((share_of_bound(each), each.claim.name) for each in found)
        slug = re.sub(r"[^\w\- ]", "", section.title.lower()).replace(" ", "-")
        beside_trl = sum(each.claim.peer is not None for each in found)
        numbers = (len(found), f"{sum(each.cases for each in found):,}", beside_trl)
        rows.append([f"[{section.title}](#{slug})", *map(str, numbers), f"{share:.0%}: {name}"])
    return grid(("method", "claims", "cases", "beside TRL's or its libraries' code", "nearest to its bound"), rows)


def share_of_bound(measured: Measured) -> float:
    bound = measured.claim.bound.size
    return max(measured.differences.values()) / bound if bound else 0.0


HEADER = ("formula", "paper", "code · test", "cases", "from the oracle", "from TRL", "bound")


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


def left_out() -> str:
    lines = [
        f"- `{short(module)}`: " + "; ".join(f"`{name}` ({why})" for name, why in LEFT_OUT[short(module)].items())
        for module in FILES
        if LEFT_OUT.get(short(module))
    ]
    words = "Every public function of the files that hold mathematics is in a table above, but for these:"
    return f"## Not in a table\n\n{words}\n\n" + "\n".join(lines)
