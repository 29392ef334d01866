"""docs/proof.md is whole and true: nothing is left out, every link leads where it says, a broken formula is noticed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import auto_bot_tuner.dpo.loss as dpo
import auto_bot_tuner.grpo.loss as grpo
import auto_bot_tuner.rlhf.ppo_loss as ppo
import auto_bot_tuner.sft.loss as sft
import proof.__main__ as command
from auto_bot_tuner.evaluation import accuracy
from proof import mutants, page
from proof.claims import Bound, Claim, Measured, Paper, difference, measure
from proof.contents import FILES, LEFT_OUT, Section, claims, missing, public, short
from proof.pitfalls import PITFALLS
from proof.places import ROOT, has_test, place_of

PAGE = (ROOT / "docs" / "proof.md").read_text(encoding="utf-8")
AGAIN = "is not what the code says: run `make proof`"
BY_NAME = {claim.name: claim for claim in claims()}


def number(text: str) -> float:
    return float(text.strip("` "))


def rows() -> list[list[str]]:
    """The cells of the rows about claims: those whose last cell is a bound and its letter."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| **")]
    return [cells for cells in lines if re.fullmatch(r"\S+ \([a-z]\)", cells[-1])]


# ---- whole ----


def test_every_public_function_of_the_mathematics_is_on_the_page_or_left_out_with_a_reason() -> None:
    assert missing() == []
    there = {short(module): set(public(module)) for module in FILES}
    for file, names in LEFT_OUT.items():
        assert set(names) <= there[file], f"{file}: left out, but not there"
        assert all(names.values())


def test_the_page_holds_every_claim_and_trap_and_no_other() -> None:
    assert [cells[0].split("**")[1] for cells in rows()] == [claim.name for claim in claims()], AGAIN
    assert len(BY_NAME) == len(rows()), "two claims have one name"
    assert all(f"| **{pitfall.name}** |" in PAGE for pitfall in PITFALLS), AGAIN
    for module in FILES:
        for name in LEFT_OUT.get(short(module), {}):
            assert f"`{name}` (" in PAGE, AGAIN


def test_every_link_leads_to_the_line_that_defines_what_it_names() -> None:
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)#L(\d+)\)", PAGE)
    assert len(links) == len(rows())
    for name, file, line in links:
        defined = (ROOT / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert re.match(rf"\s*(def|class) {name.split('.')[-1]}\b", defined), f"{file}#L{line}: {name} {AGAIN}"
    others = re.findall(r"\]\(\.\./([\w/.]+)[ )]", PAGE)
    assert others and all((ROOT / other).exists() for other in others)


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r'✓ \[([\w ]+)\]\(\.\./(tests/\w+\.py) "(\S+)"\)', PAGE)
    assert len(named) == len(rows()) + len(PITFALLS)
    for words, file, node_id in named:
        assert node_id == f"{file}::test_{words.replace(' ', '_')}" and has_test(node_id), f"{node_id} {AGAIN}"
    assert [claim.test for claim in claims() if not has_test(claim.test)] == []


def test_every_difference_is_within_its_bound_and_every_bound_has_its_reason() -> None:
    reasons = dict(re.findall(r"^- \*\*([a-z])\*\*: `(\S+)`: \S", PAGE, re.MULTILINE))
    compared = 0
    for cells in rows():
        bound, letter = cells[-1].split(" ")
        assert reasons[letter.strip("()")] == bound
        for cell in cells[4:6]:
            for size in re.findall(r"`([\de.-]+)`", cell.split("<br>")[0]):
                assert number(size) <= number(bound), cells[0]
                compared += 1
    assert compared > 1.5 * len(rows())  # most rows have values and gradients, many both times


def test_what_trl_lacks_or_means_otherwise_is_said() -> None:
    assert [claim.name for claim in claims() if not claim.peer_is] == []
    assert [claim.name for claim in claims() if claim.oracle is None and claim.peer is None] == []


# ---- true ----

CHEAP = ["DPO", "KTO", "k3, of a token", "GAE: advantages and returns", "clipped policy loss", "loss of gspo", "pass@k"]


@pytest.mark.parametrize("name", CHEAP)
def test_a_few_claims_hold_here_and_now(name: str) -> None:
    measured = measure(BY_NAME[name])
    assert measured.failures == [] and measured.cases > 0


def padded_gae(rewards: Any, values: Any, gamma: float, lam: float, mask: Any) -> Any:
    return gae(rewards, values, gamma, lam, torch.ones_like(mask))


def rounded(values: Any, old_values: Any, returns: Any, mask: Any, value_clip: float) -> Any:
    """Within the clip old + (new - old) misses new by a rounding, which this takes for a clip."""
    loss, metrics = value_loss(values, old_values, returns, mask, value_clip)
    near = old_values + (values - old_values).clamp(-value_clip, value_clip)
    is_larger = (near - returns).square() > (values - returns).square()
    return loss, {**metrics, "value_clip_fraction": ppo.masked_mean(is_larger.float(), mask).item()}


gae, estimates, value_loss = ppo.compute_gae, ppo.kl_estimates, ppo.value_loss
nll, kl_term = sft.sft_loss, grpo.kl_term
BROKEN: dict[str, tuple[Any, str, Any]] = {
    "k1, of a token": (ppo, "kl_estimates", lambda *args: -estimates(*args)),
    "expectation of k1 = KL": (ppo, "kl_estimates", lambda *args: -estimates(*args)),
    "reward of a token": (ppo, "kl_estimates", lambda *args: -estimates(*args)),
    "GAE: advantages and returns": (ppo, "compute_gae", padded_gae),
    "value loss as logged: clip fraction, explained variance": (ppo, "value_loss", rounded),
    "clipped policy loss": (ppo, "masked_mean", lambda x, mask: x.mean()),
    "SFT loss": (sft, "sft_loss", lambda logits, labels: nll(logits, labels.roll(1, dims=1))),
    "DPO": (dpo, "sigmoid_loss", lambda margin, beta: -torch.log(torch.sigmoid(-beta * margin))),
    "ORPO": (dpo, "log1mexp", lambda x: torch.zeros_like(x)),
    "advantages of rloo": (grpo, "LEAVE_ONE_OUT", ()),
    "gradient of k3 in a loss": (grpo, "kl_term", lambda *args: kl_term(*args[:4], "k3_plain")),
    "dapo in two micro-batches = in one": (grpo, "loss_weight", lambda mask, loss: len(mask)),
    "RLOO climbs the expected reward": (grpo, "SCALED_BY_STD", ("rloo",)),
    "pass@k": (accuracy, "pass_at", lambda k, n, c: 1 - (1 - c / n) ** k),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_formula_makes_its_claim_fail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, function, broken = BROKEN[name]
    monkeypatch.setattr(module, function, broken)
    assert measure(BY_NAME[name]).failures


def half(x: float) -> float:
    r"""Half of it: $x / 2$."""
    return x / 2


def claim_of_half(oracle: Any, **settings: Any) -> Claim:
    node_id = "tests/test_proof.py::test_every_test_that_is_named_exists"
    given: dict[str, Any] = {"cases": lambda: [{"x": torch.tensor([3.0, 8.0])}], "bound": Bound(1e-6, "rounding")}
    given |= {"ours": lambda case: half(case["x"]), "oracle_is": "by hand", "peer_is": "has none", **settings}
    return Claim("half", half, Paper("Euclid"), node_id, oracle=oracle, **given)


def by_hand(case: dict[str, Any]) -> list[float]:
    return [x / 2 for x in case["x"]]


def test_values_gradients_and_peers_are_each_compared() -> None:
    right = measure(claim_of_half(by_hand, gradients=("x",), peer=lambda case: case["x"] * 0.5))
    assert right.failures == [] and set(right.differences) == {
        f"{a}, {b}" for a in ("value", "gradient") for b in ("oracle", "peer")
    }
    # Equal values, another gradient: an expression that is detached.
    detached = measure(
        claim_of_half(by_hand, gradients=("x",), peer=lambda case: case["x"].detach() / 2 + 0 * case["x"])
    )
    assert detached.failures == [f"gradient, peer: {detached.peer_gradient:.3g} > 1e-06"]
    assert measure(claim_of_half(lambda case: [math.nan for _ in case["x"]])).failures
    assert measure(claim_of_half(by_hand, cases=list)).failures == ["nothing was compared"]
    with pytest.raises(ValueError, match="shorter"):
        measure(claim_of_half(lambda case: by_hand(case)[:1]))


def test_differences_are_absolute_below_one_and_relative_above() -> None:
    assert difference([1e-3, 1000.0], [0.0, 1001.0]) == pytest.approx(1e-3, rel=2e-3)
    assert difference(torch.tensor([math.inf]), [math.inf]) == 0
    assert difference([math.nan], [1.0]) == math.inf


# ---- the command ----


def run_with(monkeypatch: pytest.MonkeyPatch, page_file: Path, *some: Claim, failed: list[str] | None = None) -> int:
    monkeypatch.setattr(command, "claims", lambda: iter(some))
    monkeypatch.setattr(command, "PITFALLS", [])
    monkeypatch.setattr(command, "PAGE", page_file)
    monkeypatch.setattr(command, "failed_tests", lambda node_ids: failed or [])
    monkeypatch.setattr(page, "SECTIONS", [Section("Halves", "All of them.", list(some))])
    monkeypatch.setattr("warnings.simplefilter", lambda action: None)  # of this process's other tests
    return command.main()


def test_a_false_claim_is_named_and_nothing_is_written_over_a_good_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "proof.md"
    file.write_text("a good page")
    false = claim_of_half(lambda case: [x / 3 for x in case["x"]])
    assert run_with(monkeypatch, file, false) == 1
    assert file.read_text() == "a good page"
    assert re.search(r"  half \(half\): value, oracle: 0\.5 > 1e-06", capsys.readouterr().err)
    true = claim_of_half(by_hand)
    assert run_with(monkeypatch, file, true, failed=["tests/test_x.py::test_y: failed"]) == 1
    assert file.read_text() == "a good page" and "test_y: failed" in capsys.readouterr().err
    assert run_with(monkeypatch, file, true) == 0
    written = file.read_text()
    assert f"[`half`](../tests/test_proof.py#L{place_of(half).line})" in written and "$`x / 2`$" in written
    assert "| `0` · –<br>by hand | has none |" in written


def test_a_test_that_fails_or_does_not_run_is_a_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(arguments: list[str], plugins: list[Any]) -> None:
        plugins[0].failed.add("tests/test_setup.py::test_uv_never_manages_the_environment")

    monkeypatch.setattr(command.pytest, "main", pretend)
    there = ["test_uv_never_manages_the_environment", "test_the_scripts_of_the_set_up_are_sound_shell"]
    said = command.failed_tests([f"tests/test_setup.py::{name}" for name in there])
    assert [line.rsplit(": ", 1)[1] for line in said] == ["failed", "did not run"]


def test_a_claim_without_its_test_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = replace(claim_of_half(by_hand), test="tests/test_proof.py::test_gone")
    monkeypatch.setattr(command, "quietly", lambda claim: pytest.fail("was measured"))
    assert run_with(monkeypatch, tmp_path / "proof.md", gone) == 1
    assert "tests/test_proof.py::test_gone: no such test" in capsys.readouterr().err


def test_the_record_of_mutants_is_shown_and_said_to_be_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "RECORD", tmp_path / "mutation.json")
    assert "Not measured yet" in mutants.mutation()
    file = "src/auto_bot_tuner/sft/loss.py"
    entry = {"file": file, "mutants": 50, "killed": 46, "timeout": 1, "survived": 3}
    now = hashlib.sha256((ROOT / file).read_bytes()).hexdigest()
    survivor = {"file": file, "line": 7, "function": "sft_loss", "before": "a | b", "after": "", "why": "the same"}
    for digest, word in ((now, "as it is now"), ("0" * 64, "changed since")):
        record: dict[str, Any] = {
            "made": "2026-01-02T03:04",
            "command": "make mutation",
            "files": [entry | {"sha256": digest}],
        }
        record["survivors"] = [survivor]
        (tmp_path / "mutation.json").write_text(json.dumps(record))
        shown = mutants.mutation()
        assert "47 of 50 mutants were killed, 94.0%" in " ".join(shown.replace("**", "").split()) and word in shown
        assert r"`a \| b` | (nothing) | the same |" in shown and "each survivor is explained" in shown
    record["survivors"] = [survivor | {"why": ""}]
    (tmp_path / "mutation.json").write_text(json.dumps(record))
    assert "1 survivors below are not explained yet" in mutants.mutation()


def test_a_measurement_without_numbers_fails() -> None:
    assert Measured(claim_of_half(by_hand), 0).failures == ["nothing was compared"]
