"""Lint of our own words: what README and the lessons show, say and count is so.

Commands and snippets run in `test_words_run.py`; here is what needs no run.
"""

from __future__ import annotations

import re

import pytest

from tests.documents import Block, blocks, documents, record, source_lines
from tests.figures import figures, known, without_source
from tests.record_words import commands_with_records

DOCUMENTS = documents()
GENERATED = ("docs/proof.md",)  # written by a command from its measurements
EVERY_BLOCK = [block for document in DOCUMENTS for block in blocks(document)]
OUTPUTS = [block for document in DOCUMENTS for block in blocks(document) if block.kind == "output"]


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d not in GENERATED])
def test_every_figure_has_a_source(document):
    complaints = [c for block in blocks(document) if block.kind == "text" for c in without_source(block)]
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d not in GENERATED])
def test_a_default_behind_its_setting_is_the_dataclass_s(document):
    """`kl_coefficient` (0.05): what stands in brackets behind a setting is its default in a config that has it."""
    text = "\n".join(block.text for block in blocks(document) if block.kind == "text")
    for name, said in re.findall(r"`(\w+)` \((\d[\d.e-]*)\)", text):
        defaults = [getattr(thing, name) for thing in known().values() if hasattr(thing, name)]
        assert not defaults or float(said) in defaults, f"{document}: {name} ({said}), not one of {defaults}"


@pytest.mark.long
def test_no_record_is_owed():
    owed = {name: str(block) for block in EVERY_BLOCK for name in block.noted("owed")}
    assert not owed, f"record these: {owed}"


@pytest.mark.parametrize("block", OUTPUTS, ids=str)
def test_an_output_is_a_cut_of_its_record(block):
    assert block.noted("from"), f"{block}: no <!-- from: NAME --> says which record this is of (```text: no output)"
    assert not (wrong := first_line_that_is_not_there(block)), f"{block}: not in the record as it stands: {wrong!r}"


def first_line_that_is_not_there(block: Block) -> str | None:
    """Whole lines, in order, with … where lines (or the end of one) are left out."""
    recorded = [line.rstrip() for source in block.noted("from") for line in source_lines(source)]
    at, is_open = 0, True
    for line in block.text.splitlines():
        if line.startswith("…"):
            is_open = True
            continue
        fitting = [n for n in range(at, len(recorded)) if is_same(line, recorded[n])]
        if not fitting or not (is_open or fitting[0] == at):
            return line
        at, is_open = fitting[0] + 1, False
    return None


def is_same(line: str, recorded: str) -> bool:
    return line == recorded or (line.endswith("…") and recorded.startswith(line[:-1].rstrip()))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_records_are_of_the_commands_that_make_them(document):
    owed = {name for block in EVERY_BLOCK for name in block.noted("owed")}
    for command in commands_with_records(document):
        if record(command.record).exists() or not any(name in command.record for name in owed):
            first = record(command.record).read_text(encoding="utf-8").partition("\n")[0]
            assert first == f"$ {command.text}", command


def test_records_tell_nothing_of_the_machine():
    for path in record("x").parent.glob("*"):
        found = re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|var)/\S*", path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found[:3]}"


# ---- the lint itself ----


def block_of(text: str, **notes: list[str]) -> Block:
    return Block("docs/a.md", 1, "text", text, notes)


def test_the_lint_names_the_figure_that_nothing_gives():
    assert without_source(block_of("It got 93.0 % of 500.")) == [
        "docs/a.md:1: 93.0% has no source",
        "docs/a.md:1: 500 has no source",
    ]


def test_figures_are_compared_at_the_precision_of_the_text(tmp_path):
    source = tmp_path / "run.txt"
    source.write_text("loss 0.08012 accuracy 0.9304 rows 5,820 drift -1.37e-05\n")
    said = "loss 0.080, 93 %, 93.0 %, 5,820 rows, 1.4e-5"
    assert not without_source(block_of(said, **{"from": [str(source)]}))
    assert without_source(block_of("loss 0.081, 93.1 %, 1.3e-5", **{"from": [str(source)]})) == [
        "docs/a.md:1: 0.081 has no source",
        "docs/a.md:1: 93.1% has no source",
        "docs/a.md:1: 1.3e-5 has no source",
    ]


def test_words_in_brackets_leave_only_their_lines(tmp_path):
    source = tmp_path / "run.txt"
    source.write_text("sft 93\ndpo 95\n")
    assert without_source(block_of("95 %", **{"from": [f"{source}[sft ]"]}))
    assert not without_source(block_of("95 %", **{"from": [f"{source}[dpo ]"]}))


def test_what_is_worked_out_is_worked_out():
    assert not without_source(block_of("ln 2 = 0.693", **{"is": ["0.693 = log(2)"]}))
    assert without_source(block_of("ln 2 = 0.694", **{"is": ["0.694 = log(2)"]}))
    assert not without_source(block_of("rows of 16", **{"is": ["16 = SFTConfig.gradient_accumulation_steps * 4"]}))


def test_names_citations_and_small_counts_are_free():
    said = (
        "GPT-2 writes 8 answers (2402.14740, §3.5, 2024) in `--top-k 50`, $e^{12}$, with seeds 42 and 17, k3 and q8_0."
    )
    assert not [figure for figure in figures(said) if not figure.is_free]


def test_the_section_on_speed_comes_from_the_benchmark_s_record(tmp_path):
    from benchmarks.results import Record, Result, Spread
    from tests.speed_words import speed_section

    figures = {"speed": Spread(3.04, 2.9, 3.1), "memory": Spread(0.21, 0.2, 0.22)}
    slowest = Result("start-up", {"start-up wall s": Spread(0.5, 0.5, 0.5)})
    path = tmp_path / "cpu.json"
    Record({}, "2026-01-01", {"sft": Result("sft", figures, 1.8e-6), "start-up": slowest}).save(path)
    section = speed_section(path)
    assert "| SFT | TRL out of the box | 3.0 times | 0.21 |" in section and "at most 1.8e-06 in float32" in section
