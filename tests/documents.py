"""A Markdown document as its blocks: what it commands, what it shows as their output, what it says in words.

Where a figure or an output comes from stands in a comment that readers do not see, in the line above it; above a
blank line it holds to the end of the section:

    <!-- record: sft-tiny, accuracy-sft -->      the records that the commands of this block write, `-` for none
    <!-- from: demo, docs/any.md, demo[sft ] --> these files hold the figures: a bare name is docs/records/NAME.txt, and
                                                 words in brackets leave only the lines that hold them
    <!-- is: 0.693 = log(2); 16 = SFTConfig.batch_size -->  figures that the test works out
    <!-- cited: 0.28 of DAPO's paper -->         figures of a named source elsewhere
    <!-- advice: 0.3, 20 -->                     rules of thumb: nobody measured them
    <!-- owed: best-of -->                       measured once, and what was printed is not kept: a record of this name
                                                 is to be made (a long test counts these)
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "docs" / "records"
KINDS = ("record", "from", "is", "cited", "advice", "owed")
Notes = dict[str, list[str]]


@dataclass(frozen=True)
class Block:
    """A fence, or lines of text up to a blank one."""

    document: str  # its path from the root
    line: int  # of the first line of the text
    kind: str  # text, heading, output (a fence without a language), literal (```text), or the fence's language
    text: str
    notes: Notes = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    def noted(self, kind: str) -> list[str]:
        return self.notes.get(kind, [])


@dataclass(frozen=True)
class Command:
    """One command as a shell reads it, in one line and without its comment."""

    document: str
    line: int
    text: str
    record: str = ""  # docs/records/{record}.txt holds what it printed

    def __str__(self) -> str:
        return f"{self.document}:{self.line} {self.text}"


def documents() -> list[str]:
    """README and the lessons; not what a command writes."""
    return ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]


@cache
def blocks(document: str) -> tuple[Block, ...]:
    return tuple(read_blocks(document, (ROOT / document).read_text(encoding="utf-8")))


def read_blocks(document: str, text: str) -> Iterator[Block]:
    lines = text.splitlines()
    section: Notes = {}
    above: Notes = {}
    at = 0
    while at < len(lines):
        start = at
        line = lines[at].strip()
        if comment := re.fullmatch(r"<!--(.*?)-->", line):
            above = joined(above, parsed(comment[1], f"{document}:{at + 1}"))
            at += 1
        elif not line:
            section, above = joined(section, above), {}
            at += 1
        elif fence := re.fullmatch(r"(`{3,})(\w*)", line):
            at = lines.index(fence[1], at + 1) if fence[1] in lines[at + 1 :] else len(lines)
            inside = "\n".join(lines[start + 1 : at])
            yield Block(
                document,
                start + 2,
                {"": "output", "text": "literal"}.get(fence[2], fence[2]),
                inside,
                joined(section, above),
            )
            at, above = at + 1, {}
        else:
            is_heading = line.startswith("#")
            section = {} if is_heading else section
            at += 1
            while not is_heading and at < len(lines) and lines[at].strip() and not begins_another(lines[at]):
                at += 1
            kind = "heading" if is_heading else "text"
            yield Block(document, start + 1, kind, "\n".join(lines[start:at]), joined(section, above))
            above = {}


def begins_another(line: str) -> bool:
    return line.lstrip().startswith(("```", "<!--", "#"))


def parsed(comment: str, where: str) -> Notes:
    kind, colon, words = comment.strip().partition(":")
    if not colon or kind not in KINDS:
        return {}
    parts = re.split(r";" if kind in ("is", "cited") else r",(?![^\[]*\])", words)
    assert all(part.strip() for part in parts), f"{where}: an empty part in <!-- {kind}: -->"
    return {kind: [part.strip() if kind != "from" else part.lstrip() for part in parts]}


def joined(a: Notes, b: Notes) -> Notes:
    return {kind: [*a.get(kind, []), *b.get(kind, [])] for kind in {**a, **b}}


# ---- commands ----


def commands_of(block: Block) -> list[Command]:
    """Of a ```bash block each command; of an output those that it shows behind a `$`."""
    if block.kind == "output":
        shown = [(n, line[2:]) for n, line in enumerate(block.text.splitlines()) if line.startswith("$ ")]
        return [Command(block.document, block.line + n, line) for n, line in shown]
    if block.kind != "bash":
        return []
    found: list[tuple[int, str]] = []
    begun, start = "", 0
    for number, line in enumerate(block.text.splitlines()):
        start = start if begun else number
        if line.rstrip().endswith("\\"):
            begun += line.rstrip()[:-1].strip() + " "
        elif text := without_comment(begun + line.strip()):
            found.append((start, text))
            begun = ""
    names = block.noted("record") or ["-"] * len(found)
    assert len(names) == len(found), f"{block}: {len(found)} commands, {len(names)} names of records"
    return [
        Command(block.document, block.line + number, text, "" if name == "-" else name)
        for (number, text), name in zip(found, names, strict=True)
    ]


def without_comment(line: str) -> str:
    """A command without the comment behind it, and with one space where the page has several to align columns."""
    quoted = re.split(r"""("(?:[^"\\]|\\.)*"|'[^']*')""", line)
    kept = []
    for part in quoted:
        is_quoted = part[:1] in ("'", '"')
        before, hash_sign, _ = (part, "", "") if is_quoted else re.sub(r"(^|\s)#(?=\s)", r"\1\0", part).partition("\0")
        kept.append(before if is_quoted else re.sub(r"\s+", " ", before))
        if hash_sign:
            break
    return "".join(kept).strip()


def all_commands(document: str) -> list[Command]:
    return [command for block in blocks(document) for command in commands_of(block)]


def main_words(text: str) -> list[str] | None:
    """The arguments of the `python main.py …` in a command, whatever stands before and behind it."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|<>;&")
    lexer.whitespace_split = True
    words = list(lexer)
    if "main.py" not in words:
        return None
    rest = words[words.index("main.py") + 1 :]
    ends = [n for n, word in enumerate(rest) if word and set(word) <= set("|<>;&")]
    return rest[: ends[0]] if ends else rest


# ---- records ----


def record(name: str) -> Path:
    """docs/records/NAME.txt; a name with a slash is a file of the repository."""
    return ROOT / name if "/" in name else RECORDS / f"{name}.txt"


@cache
def source_lines(source: str) -> tuple[str, ...]:
    """The lines of a `from:`, those with the words in brackets where there are some."""
    name, bracket, words = source.strip().partition("[")
    wanted = words.removesuffix("]")
    lines = record(name).read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not bracket or wanted in line)
