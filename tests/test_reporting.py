"""What a run tells: files, TensorBoard, Weights & Biases, the screen, the model card."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from auto_bot_tuner.rlhf import RewardModel
from auto_bot_tuner.rlhf.scoring import score_rows
from auto_bot_tuner.training.card import front_matter, samples_section
from auto_bot_tuner.training.config import TrainingConfig
from auto_bot_tuner.training.events import Event
from auto_bot_tuner.training.progress import ProgressLine, one_line
from auto_bot_tuner.utils.errors import Interrupted, UserError
from auto_bot_tuner.utils.score_head import with_score_head
from tests.reward_runs import random_groups, small_reward_trainer
from tests.rl_runs import grpo_trainer, letter_model, letter_tokenizer
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


# ---- report.html ----


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The status of each run whose report was asked for; what is drawn there is another test's matter."""
    written: list[str] = []

    def write_run_report(folder: Path) -> Path:
        written.append(json.loads((folder / "run.json").read_text())["status"])
        return folder / "report.html"

    monkeypatch.setitem(sys.modules, "auto_bot_tuner.reports", SimpleNamespace(write_run_report=write_run_report))
    return written


def test_a_report_is_written_when_a_run_has_finished(tmp_path: Path, reports: list[str]) -> None:
    assert {"tensorboard", "html"} == set(TrainingConfig().report_to)
    small_trainer(tmp_path / "with", max_steps=1, report_to=("html",)).train()
    small_trainer(tmp_path / "without", max_steps=1, report_to=()).train()
    assert reports == ["finished"]
    assert (tmp_path / "with/final/curves.png").read_bytes().startswith(b"\x89PNG")
    assert "(curves.png)" in (tmp_path / "with/final/README.md").read_text()
    assert not (tmp_path / "without/final/curves.png").exists()
    assert "curves.png" not in (tmp_path / "without/final/README.md").read_text()


def test_a_report_is_written_when_a_run_was_interrupted(tmp_path: Path, reports: list[str]) -> None:
    trainer = small_trainer(tmp_path, report_to=("html",))
    trainer.callbacks.append(lambda event: os.kill(os.getpid(), signal.SIGINT) if event.name == "step" else None)
    with pytest.raises(Interrupted):
        trainer.train()
    assert reports == ["interrupted"]


def test_a_report_that_fails_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = SimpleNamespace(write_run_report=lambda folder: 1 / 0)
    monkeypatch.setattr("auto_bot_tuner.training.final.draw_curves", lambda *_: 1 / 0)
    monkeypatch.setitem(sys.modules, "auto_bot_tuner.reports", broken)
    summary = small_trainer(tmp_path, max_steps=1, report_to=("html",)).train()
    assert Path(summary["final"]).is_dir() and "curves.png" not in card_of(tmp_path)
    said = f"no report.html (division by zero): write it with python main.py report {tmp_path}"
    assert said in capsys.readouterr().out


# ---- the model card ----


def card_of(run: Path) -> str:
    return (run / "final" / "README.md").read_text(encoding="utf-8")


def test_the_model_card_says_where_the_model_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"method": "sft", "model": {"name": "tiny"}, "dataset": {"name": "rows.jsonl"}, "training": {}}

    def name_them(event: Event) -> None:
        if event.name == "start":
            Path(event.trainer.config.output_dir, "config.yaml").write_text(yaml.safe_dump(config))

    first = small_trainer(Path("runs/one"), max_steps=2)
    first.callbacks.append(name_them)
    first.train()
    config |= {"model": {"name": "runs/one/final"}, "dataset": {"name": f"{tmp_path}/secret/home/data.jsonl"}}
    second = small_trainer(tmp_path / "runs/two", max_steps=2)
    second.callbacks.append(name_them)
    second.train()
    card, records = (
        card_of(Path("runs/two")),
        [json.loads(Path("runs", name, "run.json").read_text()) for name in ("one", "two")],
    )
    assert "`tiny` → `runs/one` (SFT) → `runs/two` (SFT)" in card
    hashes = {record["data"]["sha256"] for record in records}  # both runs had the same rows
    assert (
        len(hashes) == 1 and card.count(f"| 37 | `{hashes.pop()}` |") == 2 and "| SFT, earlier | rows.jsonl |" in card
    )
    assert "home/data.jsonl" in card and str(tmp_path) not in card.replace("\\", "")
    assert "2 steps" in card and '"learning_rate": 0.01' in card and "transformers" in card and "| seed | 42 |" in card


def test_the_card_compares_before_and_after_in_four_digits(tmp_path: Path) -> None:
    small_trainer(tmp_path, max_steps=4, eval_steps=2).train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    before, *_, after = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert f"| loss (nats per trained token) | {before:.4g} | {after:.4g} |" in card_of(tmp_path)
    assert "eval_" not in card_of(tmp_path).split("## Settings")[0]


def test_the_card_of_the_best_weights_has_their_figures(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, max_steps=6, eval_steps=2, keep_best=True, learning_rate=0.5)
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    best = min(losses, key=losses.__getitem__)
    assert best != 6 and f"after step {best} |" in card_of(tmp_path)
    assert f"| {losses[best]:.4g} |\n" in card_of(tmp_path)


def run_of(base: str, data: str, method: str = "sft") -> dict[str, Any]:
    return {"method": method, "data": {"name": data}, "lineage": [{"name": base, "method": "base"}]}


@pytest.mark.parametrize(
    ("base", "data", "known"),
    [
        ("gpt2", "yahma/alpaca-cleaned", {"base_model": "gpt2", "datasets": ["yahma/alpaca-cleaned"]}),
        ("Qwen/Qwen3-0.6B", "tiny-instructions", {"base_model": "Qwen/Qwen3-0.6B"}),
        ("tiny", "mine.jsonl", {}),
        ("/home/ann/model", "a.jsonl x 0.7 + b.jsonl x 0.3", {}),
        ("a model without a name", "", {}),
    ],
)
def test_front_matter_names_only_what_the_hub_knows(base: str, data: str, known: dict[str, Any]) -> None:
    from huggingface_hub import ModelCard

    found = ModelCard(front_matter(run_of(base, data), is_adapter_alone=False)).data.to_dict()
    assert {name: found[name] for name in ("base_model", "datasets") if name in found} == known
    assert found["pipeline_tag"] == "text-generation" and found["library_name"] == "transformers"
    assert "sft" in found["tags"]
    adapter = ModelCard(front_matter(run_of(base, data), is_adapter_alone=True)).data.to_dict()
    assert adapter["library_name"] == "peft"
    assert adapter.get("base_model_relation") == ("adapter" if known else None)


def test_what_a_model_wrote_stays_in_its_fence(tmp_path: Path) -> None:
    samples = [
        {"step": step, "prompt": "p", "response": f"{step}\n````\n# title\x1b[2J", "ended": True} for step in (0, 5)
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    section = samples_section(tmp_path)
    fence = section.splitlines()[1]
    assert fence == "`````" and section.count(fence) == 2 and section.rstrip().endswith(fence)
    assert "\x1b" not in section and "→ 5" in section and "→ 0" not in section


def snippet(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


def test_the_cards_snippet_runs_where_the_model_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grpo_trainer(tmp_path, max_steps=1).train()
    monkeypatch.chdir(tmp_path / "final")
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(snippet(card_of(tmp_path)), names)
    assert capsys.readouterr().out and names["inputs"]["input_ids"].shape[1] == len("Hello?")


def test_a_reward_models_snippet_gives_its_centred_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = RewardModel(with_score_head(letter_model()))
    model.config.pad_token_id = None  # as `create_reward_model_from_pretrained` leaves it: the end token has pad's id
    trainer = small_reward_trainer(tmp_path, model=model, train=random_groups(words=27), max_steps=1)
    trainer.tokenizer = letter_tokenizer()
    trainer.train()
    monkeypatch.chdir(tmp_path / "final")
    names: dict[str, Any] = {}
    exec(snippet(card_of(tmp_path)), names)
    ids = names["tokenizer"](names["text"], add_special_tokens=False)["input_ids"]
    assert names["score"].item() == pytest.approx(score_rows(model, [ids])[0], abs=1e-4)
