"""What a run tells: files, TensorBoard, Weights & Biases, the screen, the model card."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from auto_bot_tuner.training.progress import ProgressLine, one_line
from auto_bot_tuner.utils.errors import UserError
from tests.training_runs import small_trainer


def test_tensorboard_holds_the_curves_of_metrics_jsonl(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small_trainer(tmp_path, report_to=("tensorboard",), max_steps=4, eval_steps=2).train()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for tag, name in (("train/loss", "loss"), ("eval/loss", "eval_loss")):
        written = [(line["step"], line[name]) for line in lines if name in line]
        shown = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in shown] == [step for step, _ in written]
        assert [value for _, value in shown] == pytest.approx([value for _, value in written], rel=1e-6)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_get_every_logged_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    calls: list[tuple[str, Any]] = []
    fake = SimpleNamespace(
        init=lambda **settings: calls.append(("init", settings["name"])),
        log=lambda metrics, step: calls.append(("log", step)),
        finish=lambda: calls.append(("finish", None)),
    )
    monkeypatch.setitem(sys.modules, name, fake)  # neither is a dependency; both have these three functions
    small_trainer(tmp_path / "mine", report_to=(name,), max_steps=2).train()
    assert calls == [("init", "mine"), ("log", 0), ("log", 1), ("log", 2), ("log", 2), ("finish", None)]


def test_a_reporter_that_is_not_installed_is_named_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb, which is not installed"):
        small_trainer(tmp_path, report_to=("wandb",)).train()


def test_samples_are_answers_to_the_same_prompts_at_every_evaluation(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, max_steps=2, sample_prompts=("!",), sample_max_new_tokens=5)
    # "!" is token 0, one of the few that this small model knows; the built-in template's words are not.
    trainer.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    trainer.train()
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [(sample["step"], sample["prompt"]) for sample in samples] == [(0, "!"), (2, "!")]
    assert all({"response", "ended"} <= sample.keys() for sample in samples)


def test_a_prompt_longer_than_the_context_is_no_sample(tmp_path: Path) -> None:
    class Rows(list):  # type: ignore[type-arg]
        def prompts(self, count: int) -> list[list[dict[str, str]]]:
            return [[{"role": "user", "content": "a!" * length}] for length in (1, 1500)][:count]

    trainer = small_trainer(tmp_path, max_steps=1, num_samples=2, sample_max_new_tokens=4)
    trainer.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    trainer.eval_dataset = Rows(trainer.eval_dataset)
    trainer.train()
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {sample["prompt"] for sample in samples} == {"a!"}


def test_without_a_terminal_progress_is_one_plain_line_per_log(tmp_path: Path) -> None:
    out = io.StringIO()
    line = ProgressLine(total_steps=4, done_steps=0, console=Console(file=out, width=200))
    trainer = small_trainer(tmp_path, max_steps=4, logging_steps=2)
    trainer.callbacks.append(line)
    trainer.train()
    steps = [text for text in out.getvalue().splitlines() if "/4" in text]
    assert len(steps) == 3 and all("loss" in text for text in steps)
    assert "\x1b" not in out.getvalue()


def test_what_a_model_writes_cannot_drive_the_terminal() -> None:
    shown = one_line("\x1b[2Jred\x07 alert\n[bold]markup[/bold]")
    assert "\x1b" not in shown and "\x07" not in shown and "\n" not in shown
    out = io.StringIO()
    Console(file=out, width=200).print(shown)
    assert "[bold]markup[/bold]" in out.getvalue()


def test_the_model_card_says_where_the_model_comes_from(tmp_path: Path) -> None:
    small_trainer(tmp_path, max_steps=2).train()
    card = (tmp_path / "final" / "README.md").read_text()
    assert card.startswith("---\nbase_model:")
    assert "2 steps" in card and "eval_loss" in card and '"learning_rate": 0.01' in card and "transformers" in card
