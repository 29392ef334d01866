"""PPO and GRPO with real models on real prompts: what must hold of a few steps, and the benchmark's own claims."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.rewards import Attempt, rewards_from_names
from auto_bot_tuner.rlhf import load_reward_model
from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
from benchmarks import real_rl as benchmark
from benchmarks.real_rl import Outcome, Run, carry_out, judge, model_folder, sft

SMALL: dict[str, Any] = {"batch_size": 4, "max_new_tokens": 12, "max_steps": 4}
FEW = {"max_steps": 4, "num_epochs": 1, "batch_size": 4}  # of SFT and of a reward model: a beginning


def outcome(logs: list[dict[str, float]], prompts: int = 4) -> Outcome:
    return Outcome(Run("", Path()), "", logs, [], [], "", prompts, 0, 0.0, 0.0, 0)


def test_a_divergence_below_0_is_told_in_standard_errors() -> None:
    """-1 with a deviation of 1 over four responses is two standard errors below 0; without any deviation, rounding."""
    logs = [{"kl": -1e-7, "kl_std": 1e-6}, {"kl": 2.0, "kl_std": 1.0}, {"kl": -1.0, "kl_std": 1.0}]
    assert outcome(logs).lowest_kl == pytest.approx(-2)
    assert math.isnan(outcome(logs[:1]).lowest_kl)


def test_without_the_folder_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTO_BOT_TUNER_SHARED", raising=False)
    monkeypatch.setattr(sys, "argv", ["real_rl"])
    with pytest.raises(SystemExit, match=r"^error: AUTO_BOT_TUNER_SHARED names no folder with data/[^\n]*$"):
        benchmark.main()


@pytest.fixture(scope="module")
def starts(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A chat model that has seen a little SFT, and two reward models: of its own tokens and of another tokenizer's."""
    rows, folder = benchmark.read_rows(benchmark.HH)[:64], tmp_path_factory.mktemp("starts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTO_BOT_TUNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        chat = sft(benchmark.BASIC, folder / "chat", rows, 128, **FEW)
        own = judge(chat, folder / "own", rows, True, max_steps=2, batch_size=4)
        outside = judge(model_folder(benchmark.STORIES), folder / "outside", rows, False, max_steps=2, batch_size=4)
    return {"chat": chat, "own": own, "outside": outside}


@pytest.mark.parametrize(("judged_by", "use_lora"), [("outside", False), ("own", True)])
def test_ppo_on_real_prompts(starts: dict[str, Path], tmp_path: Path, judged_by: str, use_lora: bool) -> None:
    """Finite, from ratio 1 and divergence 0, to a final/ that is the trained policy in plain transformers and peft."""
    rows = benchmark.read_rows(benchmark.HH)
    run = Run("", starts["chat"], starts[judged_by], (), use_lora, 96, SMALL | {"learning_rate": 3e-3})
    found, trainer = carry_out(run, rows[:64], rows[64:96], tmp_path / "run")
    assert len(found.logs) == SMALL["max_steps"] and not found.skipped and found.is_finite
    assert found.reference == ("adapter_off" if use_lora else "copy")
    assert found.first_ratio_gap < 1e-5
    assert abs(found.logs[0]["kl"]) < 1e-4 and abs(found.logs[0]["kl_k3"]) < 1e-4
    assert not found.lowest_kl < -3
    assert found.evaluations[-1]["eval_kl_k3"] > 1e-4  # it has moved
    assert found.final_difference < 1e-4 < 1e-1 * found.final_apart
    # With its own tokens a response is scored as it was sampled; those of another tokenizer go by text.
    share = benchmark.read_by_ids(trainer)
    assert share > 0.5 if judged_by == "own" else share == 0
    assert (found.freed > 2**20) == use_lora


def test_a_reward_model_with_another_tokenizer_reads_the_text_anew(starts: dict[str, Path], tmp_path: Path) -> None:
    """Its score is that of its own tokens: prompt and answer as text in its own template, up to its end token."""
    rows = benchmark.read_rows(benchmark.HH)
    run = Run("", starts["chat"], starts["outside"], (), False, 96, SMALL | {"max_steps": 1})
    _, trainer = carry_out(run, rows[:32], [], tmp_path / "run")
    model, tokenizer, _ = load_reward_model(str(starts["outside"]), "cpu")
    rollout = trainer.rollout
    assert rollout is not None and len(rollout.attempts) >= 4
    for attempt, score in zip(rollout.attempts, rollout.raw_scores.tolist(), strict=True):
        chat = [*attempt.prompt, {"role": "assistant", "content": attempt.response}]
        ids = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id
        ids = torch.tensor([ids if attempt.ended else ids[:-1]])
        with torch.no_grad():
            assert float(model(ids, torch.ones_like(ids))) == pytest.approx(score, abs=1e-4)


def test_where_no_reward_comes_nothing_is_changed_and_the_verdict_says_why(
    starts: dict[str, Path], tmp_path: Path
) -> None:
    """School arithmetic is beyond the model: every update is skipped and counted, every weight stays as it was."""
    rows = benchmark.read_rows(benchmark.GSM8K)[:200]
    run = Run("", starts["chat"], None, ("numeric",), False, 128, {**SMALL, "learning_rate": 1e-2, "group_size": 4})
    found, trainer = carry_out(run, rows, [], tmp_path / "run")
    assert found.skipped == len(found.logs) == SMALL["max_steps"]
    assert found.final_apart == 0
    before = load_model_and_tokenizer(str(starts["chat"]), "cpu")[0].state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())
    assert "no_reward" in found.verdicts and "no_spread" not in found.verdicts
    assert all("loss" not in line and line["reward"] == 0 for line in found.logs)


def test_where_a_reward_comes_it_is_learnt(starts: dict[str, Path], tmp_path: Path) -> None:
    """The same model and questions, and a reward within reach: to say "the"."""
    rows = benchmark.read_rows(benchmark.GSM8K)[:200]
    settings = {**SMALL, "learning_rate": 3e-3, "group_size": 8}
    found, _ = carry_out(
        Run("", starts["chat"], None, ("regex:the",), False, 128, settings), rows, [], tmp_path / "run"
    )
    scores = [line["reward"] for line in found.logs]
    assert found.is_finite and found.first_ratio_gap < 1e-5
    assert scores[-1] > scores[0] + 0.3


def test_a_model_whose_end_token_was_never_trained_is_told_so(starts: dict[str, Path], tmp_path: Path) -> None:
    rows = benchmark.read_rows(benchmark.HH)[:32]
    run = Run("", model_folder(benchmark.STORIES), starts["outside"], (), False, 96, SMALL | {"max_steps": 1})
    found, _ = carry_out(run, rows, [], tmp_path / "run")
    assert found.logs[0]["eos_rate"] == 0 and "no_end" in found.verdicts


def test_verifiers_give_the_answers_of_gsm8k_their_reward(shared_data: Path) -> None:
    """All 2,000 reference solutions are right by both, the number alone as well; and another number by neither."""
    rows = benchmark.read_rows(benchmark.GSM8K)
    reward = rewards_from_names(["numeric", "exact_match"])

    def scores(answer: Any) -> set[tuple[float, ...]]:
        attempts = [Attempt([{"role": "user", "content": r["question"]}], answer(r), True, r, [], []) for r in rows]
        found = reward.score(attempts)[1]
        return set(zip(*(part.tolist() for part in found.values()), strict=True))

    assert len(rows) == 2000
    assert scores(lambda row: row["answer"]) == {(1.0, 1.0)}
    assert scores(lambda row: row["answer"].rpartition("#### ")[2]) == {(1.0, 1.0)}
    assert scores(lambda row: row["answer"] + "5") == {(0.0, 0.0)}
