"""Reward models and DPO on preferences that people gave: the benchmark's own claims, and a smoke test of its parts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from auto_bot_tuner.data.formats import opening
from auto_bot_tuner.evaluation.intervals import Share, share_won
from benchmarks import real_preferences as benchmark
from benchmarks.real_dpo import dpo, sft_checkpoint
from benchmarks.real_rewards import Measured, Recipe, interval_by_opening, mean_and_error, measure, splits


def measured(wins: list[int], openings: list[str]) -> Measured:
    return Measured([win - 0.5 for win in wins], [1.0] * len(wins), Share(1, 2), openings, True)


def test_pairs_of_one_thread_count_as_one_piece_of_evidence() -> None:
    """One hundred pairs of which half are right, as they would be by a hundred coins, or by ten that each fell once."""
    wins = [1, 0] * 50
    apart = interval_by_opening([measured(wins, [str(i) for i in range(100)])], lambda m: [x > 0 for x in m.margins])
    blocks = [1 - i // 10 % 2 for i in range(100)]
    together = interval_by_opening(
        [measured(blocks, [str(i // 10) for i in range(100)])], lambda m: [x > 0 for x in m.margins]
    )
    assert apart[1] - apart[0] == pytest.approx(2 * 1.96 * 0.05, rel=0.1)  # 1.96 sqrt(p (1 - p) / n), n = 100
    assert together[1] - together[0] == pytest.approx(2 * 1.96 * 0.158, rel=0.15)  # n = 10


def test_standard_error_of_five_numbers() -> None:
    """s / sqrt(5) of 1 … 5: s^2 = 10 / 4."""
    assert mean_and_error([1, 2, 3, 4, 5]) == (3, pytest.approx((2.5 / 5) ** 0.5))


def test_without_the_folder_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTO_BOT_TUNER_SHARED", raising=False)
    monkeypatch.setattr(sys, "argv", ["real_preferences"])
    with pytest.raises(SystemExit, match=r"^error: AUTO_BOT_TUNER_SHARED names no folder with data/[^\n]*$"):
        benchmark.main()


@pytest.mark.parametrize("name", [benchmark.HH, benchmark.RANKED])
def test_no_conversation_is_on_both_sides_of_a_split(shared_data: Path, name: str) -> None:
    rows = benchmark.read_rows(name)
    held_out = []
    for split in splits(rows, benchmark.SEED):
        assert not {opening(row) for row in split.train} & {opening(row) for row in split.held_out}
        assert len(split.train) + len(split.held_out) == len(rows)
        held_out += split.held_out
    assert sorted(map(str, held_out)) == sorted(map(str, rows))


def test_a_reward_model_is_trained_and_measured_on_a_few_real_rows(shared_data: Path) -> None:
    """Every held-out pair has a margin, and the rules beside it are measured on the same pairs."""
    rows = benchmark.read_rows(benchmark.HH)[:20]
    recipe = Recipe(str(shared_data / "models" / "stories260k"), 96, settings={"max_steps": 2, "batch_size": 2})
    split = splits(rows, 0)[0]
    found = measure(split, recipe, 0)
    assert len(found.margins) == len(found.longer) == len(found.openings) == found.words.n == len(split.held_out)
    assert len(set(found.margins)) > 1
    assert benchmark.reward_table([found, found]).count("\n") == 4


@pytest.fixture(scope="module")
def sft(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA checkpoint that has learnt a little of the first chosen answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTO_BOT_TUNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        model = str(shared_data / "models" / "gpt2-basic-chat-690k")
        return sft_checkpoint(model, benchmark.read_rows(benchmark.HH)[:16], tmp_path_factory.mktemp("sft") / "run")


@pytest.mark.parametrize("number", range(len(benchmark.RUNS)), ids=[run.reference for run in benchmark.RUNS])
def test_dpo_on_a_few_real_rows(sft: Path, tmp_path: Path, number: int) -> None:
    """Margin 0 and ln 2 at step 0 with every kind of reference; final/ is the trained policy in plain transformers."""
    rows = benchmark.read_rows(benchmark.HH)
    run = replace(benchmark.RUNS[number], max_steps=2)
    outcome = dpo(run, sft, rows[:8], rows[8:12], tmp_path / "run")
    assert outcome.reference == run.reference
    assert outcome.start_is_known, (outcome.before, outcome.train_losses)
    # As near to the trained policy as rounding allows, and not the policy that training began with.
    assert outcome.final_difference < 1e-4 < 1e-2 * outcome.final_apart


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_reward_models_learn_what_people_prefer(shared_data: Path) -> None:
    """The record's own splits of HH: better than a coin by two standard errors. (Of length it says nothing: a tie.)"""
    all_splits = splits(benchmark.read_rows(benchmark.HH), benchmark.SEED)
    found = [measure(split, benchmark.recipe(), benchmark.SEED + i) for i, split in enumerate(all_splits)]
    mean, error = mean_and_error([share_won(split.margins).value for split in found])
    assert mean - 2 * error > 0.5
