"""The mutation check: its record says what it must, its runner tells a mutant that is noticed from one that is not."""

from __future__ import annotations

import json
from pathlib import Path

from proof import mutation
from proof.mutation_mutants import mutants_of

TOY = """
def positive(x: int) -> int:
    return x if x > 0 else 0


class Steps:
    @property
    def three(self) -> int:
        left, taken = 3, 0
        while left > 0:
            left -= 1
            taken += 1
        return taken
"""
TESTS_OF_TOY = """
from toy import Steps, positive as known_by_another_name

def test_positive():
    assert [known_by_another_name(x) for x in (-3, 1, 3)] == [0, 1, 3]

def test_three():
    assert Steps().three == 3
"""


def test_the_record_names_every_file_and_explains_every_survivor() -> None:
    record = json.loads(mutation.RECORD.read_text())
    assert {entry["file"] for entry in record["files"]} >= set(mutation.FILES)
    for entry in record["files"]:
        assert entry["killed"] + entry["timeout"] + entry["survived"] == entry["mutants"] > 0, entry["file"]
        assert mutation.share(entry) >= mutation.LEAST, entry["file"]
        survivors = [survivor for survivor in record["survivors"] if survivor["file"] == entry["file"]]
        assert len(survivors) == entry["survived"]
        assert len(entry["sha256"]) == 64 and entry["tests"]
    for survivor in record["survivors"]:
        assert len(survivor["why"]) > 20, survivor


def test_every_reason_is_of_a_survivor() -> None:
    """What is killed by now needs no excuse: an entry that explains nothing any more is to be deleted."""
    survivors = json.loads(mutation.RECORD.read_text())["survivors"]
    found = {(each["file"], each["function"], each["before"], each["after"]) for each in survivors}
    assert set(mutation.read_reasons(mutation.REASONS)) == found


def test_the_mutants_of_a_toy() -> None:
    mutants = mutants_of("toy.py", TOY)
    assert len({mutant.source for mutant in mutants}) == len(mutants)
    assert {mutant.function for mutant in mutants} == {"positive", "Steps.three"}  # behind a decorator, too
    for mutant in mutants:
        assert mutant.source != TOY and TOY.splitlines()[mutant.line - 1].strip() in mutant.before


def test_the_runner_tells_killed_from_survived_and_from_endless(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "toy.py").write_text(TOY)
    (tmp_path / "test_toy.py").write_text(TESTS_OF_TOY)
    after = ["return x if x >= 0 else 0", "return x if x > 0 else 1", "left += 1", "taken -= 1"]
    mutants = {mutant.after: mutant._asdict() for mutant in mutants_of("toy.py", TOY)}
    tried = [mutants[edit] for edit in after]
    outcomes = list(mutation.run(tmp_path, "src/toy.py", ["test_toy.py"], tried, patience=1))
    assert outcomes == ["survived", "killed", "timeout", "killed"]  # zero is zero on either side of the first
    assert (tmp_path / "src" / "toy.py").read_text() == TOY
