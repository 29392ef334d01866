"""`python -m proof`: measure the claims, run the tests that they name, write docs/proof.md; 1: a claim is false."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

if __name__ == "__main__":  # of this process alone: tests import from here
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread: the same sums in the same order on every run
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["CI"] = "1"  # TRL sends no telemetry then
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from proof.claims import Claim, Measured, measure
from proof.contents import claims, missing
from proof.page import Run, write
from proof.pitfalls import PITFALLS, Pitfall
from proof.places import ROOT, has_test

PAGE = ROOT / "docs" / "proof.md"


def main() -> int:
    """The exit code."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    named = sorted({each.test for each in [*claims(), *PITFALLS]})
    complaints = [f"{name} is neither on the page nor left out with a reason" for name in missing()]
    complaints += [f"{node_id}: no such test" for node_id in named if not has_test(node_id)]
    if complaints:  # known in a second: no need to measure first
        return refuse(complaints)
    found: dict[int, Measured] = {}
    for claim in claims():
        measured = quietly(claim)
        found[id(claim)] = measured
        complaints += [f"{claim.name} ({claim.of.__qualname__}): {failure}" for failure in measured.failures]
    pitfalls = [(pitfall, *shown(pitfall)) for pitfall in PITFALLS]
    complaints += [
        f"{pitfall.name}: not shown, {theirs:.3g} there and {ours:.3g} here"
        for pitfall, theirs, ours in pitfalls
        if not pitfall.is_shown(theirs, ours)
    ]
    print(f"{len(found)} claims measured in {time.perf_counter() - began:.0f} s; now the tests that they name")
    complaints += failed_tests(named)
    if complaints:
        return refuse(complaints)
    seconds = sum(os.times()[:4])  # of the processor, children included: what a quiet machine would take
    PAGE.write_text(write(Run(found, pitfalls, seconds)), encoding="utf-8")
    print(f"docs/proof.md: {len(found)} claims hold ({time.perf_counter() - began:.0f} s)")
    return 0


def refuse(complaints: Sequence[str]) -> int:
    """Say what is wrong, and write nothing over a good page."""
    summary = f"error: {len(complaints)} of what the page would say is not true; docs/proof.md is left as it was"
    print("\n  ".join([summary, *complaints]), file=sys.stderr)
    return 1


def quietly(claim: Claim) -> Measured:
    """Trainers talk; what counts is measured."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return measure(claim)


def shown(pitfall: Pitfall) -> tuple[float, float]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return pitfall.measure()


class Outcomes:
    """A plugin of pytest: which tests ran, and which failed."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.split("[")[0]
        if report.failed:
            self.failed.add(name)
        elif report.when == "call" and report.passed:
            self.passed.add(name)


def failed_tests(node_ids: Sequence[str]) -> list[str]:
    """Complaints about tests that fail or did not run."""
    outcomes = Outcomes()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        files = [str(ROOT / node_id) for node_id in node_ids]
        pytest.main(["-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *files], [outcomes])
    failed = [f"{node_id}: failed" for node_id in node_ids if node_id in outcomes.failed]
    return failed + [
        f"{node_id}: did not run" for node_id in node_ids if node_id not in outcomes.passed | outcomes.failed
    ]


if __name__ == "__main__":
    sys.exit(main())
