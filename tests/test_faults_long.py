"""A hundred kills over every method: whatever strikes a run, the resumed one ends with the bits of the whole one.

Each case is its own seed. To see one again:

    pytest -m long "tests/test_faults_long.py::test_kill[sft-full-7]"
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.fault_cases import KINDS, Trial, whole_run
from tests.fault_runs import METHODS

EACH = 12  # cases to a method
STRUCK: Counter[tuple[str, str]] = Counter()


def kind_of(method: str, number: int) -> str:
    """Every kind in turn; each method begins at another."""
    return KINDS[(number + EACH * list(METHODS).index(method)) % len(KINDS)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.mark.long
@pytest.mark.parametrize("seed", [f"{method}-{number}" for method in METHODS for number in range(EACH)])
def test_kill(seed: str, runs: Path, tmp_path: Path) -> None:
    method, _, number = seed.rpartition("-")
    kind = kind_of(method, int(number))
    trial = Trial(method, seed, whole_run(method, runs), tmp_path)
    try:
        trial.play(kind)
    finally:
        print(f"seed {seed}: {kind}; struck: {', '.join(trial.kills) or 'nothing'}")
    STRUCK.update((method, what) for what in trial.kills)


@pytest.mark.long
def test_so_many_kills_there_were() -> None:
    """The table of benchmarks/results/test-long.md; asks for a hundred where all cases ran."""
    if len({method for method, _ in STRUCK}) < len(METHODS):
        pytest.skip("only some of the cases ran")
    for title, place in (("method", 0), ("kind", 1)):
        print(f"by {title}: " + ", ".join(f"{name} {n}" for name, n in by(place).most_common()))
    print(f"{STRUCK.total()} in all")
    assert STRUCK.total() >= 100


def by(place: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for key, count in STRUCK.items():
        found[key[place]] += count
    return found
