"""What a run writes down of itself: run.json, notes, token views, lineage, and that none of it changes the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from auto_bot_tuner.evaluation.engine import evaluation_mode
from auto_bot_tuner.rlhf.ppo_loss import compute_gae
from auto_bot_tuner.rlhf.scoring import score_rows
from auto_bot_tuner.training.events import Event
from auto_bot_tuner.training.lineage import Ancestor, lineage_of
from auto_bot_tuner.training.record import digest
from auto_bot_tuner.utils.errors import Interrupted, UserError
from tests.faults import in_a_child, killing_at
from tests.preference_runs import dpo_trainer
from tests.reward_runs import small_reward_trainer
from tests.rl_runs import grpo_trainer, letter_prompts, letter_reward_model, moved, ppo_trainer, run_logged, snapshot
from tests.training_runs import logged, random_rows, small_model, small_trainer, weights

MAKERS: dict[str, Callable[..., Any]] = {
    "sft": small_trainer,
    "reward": small_reward_trainer,
    "dpo": dpo_trainer,
    "ppo": lambda folder, **given: ppo_trainer(folder, eval_dataset=letter_prompts(5, 9), **given),
    "grpo": lambda folder, **given: grpo_trainer(folder, eval_dataset=letter_prompts(5, 9), **given),
}
SERIES = {
    "sft": {"loss"},
    "reward": {"score"},
    "dpo": {"policy - reference"},
    "ppo": {"reward", "value", "advantage", "kl", "logprob"},
    "grpo": {"advantage", "logprob"},
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return found


# ---- run.json ----


@pytest.mark.parametrize("method", MAKERS)
def test_every_method_says_what_its_run_was(method: str, tmp_path: Path) -> None:
    trainer = MAKERS[method](tmp_path / "run", max_steps=2, num_samples=2)
    trainer.train()
    record = record_of(tmp_path / "run")
    assert record["method"] == method and record["status"] == "finished"
    assert (record["step"], record["total_steps"]) == (2, 2) and record["tokens"] == trainer.state.tokens > 0
    assert record["seconds"] > 0 and record["started"].endswith("+00:00")
    own = [p.numel() for p in trainer.model.parameters()]
    assert record["model"]["parameters"] == sum(own) and record["model"]["architecture"] == "llama"
    assert record["lineage"][0]["method"] == "base" and record["lineage"][-1]["method"] == method
    assert record["lineage"][-1]["name"] == str(tmp_path / "run")
    assert record["data"]["rows"] == len(trainer.lengths) and len(record["data"]["sha256"]) == 64
    assert record["eval_data"]["rows"] == len(trainer.eval_dataset)
    assert record["data"]["sha256"] != record["eval_data"]["sha256"]
    evaluations = [line for line in lines(tmp_path / "run/metrics.jsonl") if "eval_" in str(line)]
    assert record["evaluation"] == {name: value for name, value in evaluations[-1].items() if name != "step"}
    assert Path(record["final"]).is_dir() and record["seed"] == 42 and record["processes"] == 1
    assert {"device", "precision", "processor", "cores", "memory_gib", "gpu"} == record["hardware"].keys()
    assert {"python", "torch", "transformers"} <= record["versions"].keys()
    assert dict(record["settings"])["one step"].startswith(("8 ", "4 "))


@pytest.mark.parametrize("method", MAKERS)
def test_the_first_and_the_last_evaluation_are_shown_token_by_token(method: str, tmp_path: Path) -> None:
    MAKERS[method](tmp_path, max_steps=3, eval_steps=1, num_samples=2).train()
    views = lines(tmp_path / "token_views.jsonl")
    assert sorted({view["step"] for view in views}) == [0, 3]
    for view in views:
        assert view["series"].keys() == SERIES[method]
        assert len(view["tokens"]) == len(view["trained"]) > 0 and view["trained"][0]
        for values in view["series"].values():
            assert [value is not None for value in values] == view["trained"]
    assert not (tmp_path / "notes.jsonl").exists() or all("text" in note for note in lines(tmp_path / "notes.jsonl"))


def test_no_samples_means_no_token_views(tmp_path: Path) -> None:
    small_trainer(tmp_path, max_steps=1, num_samples=0).train()
    assert not (tmp_path / "token_views.jsonl").exists()


def test_an_interrupted_run_says_so_and_its_time_goes_on(tmp_path: Path) -> None:
    def press(event: Event) -> None:
        if event.name == "step" and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    trainer = small_trainer(tmp_path, max_steps=4)
    trainer.callbacks.append(press)
    with pytest.raises(Interrupted):
        trainer.train()
    stopped = record_of(tmp_path)
    assert (stopped["status"], stopped["step"], stopped["final"]) == ("interrupted", 2, None)
    stopped |= {"seconds": 1000.0, "started": "2001-01-01T00:00:00+00:00"}
    (tmp_path / "run.json").write_text(json.dumps(stopped))
    small_trainer(tmp_path, max_steps=4, resume=True).train()
    done = record_of(tmp_path)
    assert done["status"] == "finished" and done["started"] == stopped["started"] and 1000 < done["seconds"] < 1100
    assert done["data"]["sha256"] == stopped["data"]["sha256"]


def test_a_failed_run_and_a_killed_one(tmp_path: Path) -> None:
    def fail(event: Event) -> None:
        if event.name == "step":
            raise RuntimeError("no")

    trainer = small_trainer(tmp_path / "failed", max_steps=4)
    trainer.callbacks.append(fail)
    with pytest.raises(RuntimeError):
        trainer.train()
    assert record_of(tmp_path / "failed")["status"] == "failed"

    killed = small_trainer(tmp_path / "killed", max_steps=4)
    killed.callbacks.append(killing_at(2))
    assert in_a_child(killed.train) == -signal.SIGKILL
    assert record_of(tmp_path / "killed")["status"] == "running"


def test_a_reporter_that_cannot_close_hides_neither_the_error_nor_the_end(tmp_path: Path) -> None:
    def report(event: Event) -> None:
        if event.name == "end":
            raise OSError(28, "No space left on device")
        if event.name == "log":
            raise UserError("the first cause")

    trainer = small_trainer(tmp_path, max_steps=2)
    trainer.callbacks.append(report)
    with pytest.raises(UserError, match="the first cause"):
        trainer.train()
    assert record_of(tmp_path)["status"] == "failed"


def test_a_fresh_run_starts_its_own_record(tmp_path: Path) -> None:
    small_trainer(tmp_path, max_steps=1).train()
    (tmp_path / "run.json").write_text(json.dumps(record_of(tmp_path) | {"seconds": 1000.0}))
    (tmp_path / "report.html").write_text("of the earlier run")
    small_trainer(tmp_path, max_steps=1, overwrite=True).train()
    assert record_of(tmp_path)["seconds"] < 100 and not (tmp_path / "report.html").exists()


def test_the_hash_is_of_the_rows_and_of_nothing_else() -> None:
    def of(rows: list[Any]) -> str:
        return digest(rows, [len(row["input_ids"]) for row in rows])

    rows = random_rows()
    assert of(rows) == of(random_rows()) == of([{**row, "input_ids": row["input_ids"].int()} for row in rows])
    for row, name, place in ((36, "input_ids", 2), (0, "labels", -1), (17, "input_ids", 0)):
        changed = random_rows()
        changed[row][name][place] += 1
        assert of(changed) != of(rows)
    assert of(rows[::-1]) != of(rows)


# ---- logs that survive ----


def sft_with_remarks(folder: Path, **settings: Any) -> None:
    trainer = small_trainer(folder, save_steps=2, eval_steps=3, max_steps=6, num_samples=2, noisy=True, **settings)
    trainer.remarks = lambda evaluation: [f"the loss is {evaluation['eval_loss']}"]  # type: ignore[method-assign]
    trainer.verdicts = lambda metrics: [f"look at {metrics['loss']}"]  # type: ignore[method-assign]
    trainer.train()


def killed(work: Callable[..., None], folder: Path, step: int) -> None:
    def die() -> None:
        import auto_bot_tuner.training.run as run

        emit = run.Run.emit

        def dying(self: Any, name: Any, metrics: Any) -> None:
            emit(self, name, metrics)
            if name == "step" and self.trainer.state.step == step:
                os.kill(os.getpid(), signal.SIGKILL)

        run.Run.emit = dying  # type: ignore[method-assign]  # in a forked process, which ends here
        work(folder)

    assert in_a_child(die) == -signal.SIGKILL


def test_notes_and_views_of_a_resumed_run_are_those_of_a_whole_one(tmp_path: Path) -> None:
    assert in_a_child(lambda: sft_with_remarks(tmp_path / "whole")) == 0
    killed(sft_with_remarks, tmp_path / "killed", 5)  # a verdict after the checkpoint of step 4 is given again
    assert in_a_child(lambda: sft_with_remarks(tmp_path / "killed", resume=True)) == 0
    for name in ("notes.jsonl", "token_views.jsonl"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()
    notes = lines(tmp_path / "whole/notes.jsonl")
    assert {note["kind"] for note in notes} == {"verdict", "note"} and {note["step"] for note in notes} == set(range(7))


def test_resuming_a_finished_run_shows_its_tokens_once(tmp_path: Path) -> None:
    sft_with_remarks(tmp_path)
    before = (tmp_path / "token_views.jsonl").read_text()
    sft_with_remarks(tmp_path, resume=True)
    assert (tmp_path / "token_views.jsonl").read_text() == before


@pytest.mark.parametrize("method", ["sft", "dpo", "ppo", "grpo"])
def test_looking_at_tokens_changes_nothing(method: str, tmp_path: Path) -> None:
    """With them and without, the same metrics and the same weights to the bit."""
    given: dict[str, Any] = {"max_steps": 6, "logging_steps": 1, "eval_steps": 2}
    if method == "ppo":
        given |= {"scale_rewards": True, "kl_target": 1.0, "old_logprobs": "training"}
    if method == "grpo":
        given |= {"beta": 0.05, "old_logprobs": "training"}
    for name, count in (("with", 2), ("without", 0)):
        torch.manual_seed(1)
        MAKERS[method](tmp_path / name, num_samples=count, **given).train()
    read = run_logged if method in ("ppo", "grpo") else logged
    assert read(tmp_path / "with") == read(tmp_path / "without")
    first, second = (weights(tmp_path / name / "final") for name in ("with", "without"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_view_that_fails_does_not_fail_the_run(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, max_steps=1, num_samples=2)
    trainer.token_views = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    trainer.train()
    assert "division by zero" in lines(tmp_path / "notes.jsonl")[0]["text"]


# ---- what the views say ----


def test_sft_views_hold_the_loss_of_each_token(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, num_samples=3)
    row = trainer.eval_dataset[1]
    with torch.no_grad(), evaluation_mode(trainer.model):
        logprobs = trainer.model(input_ids=row["input_ids"][None]).logits[0].log_softmax(-1)
    start = int((row["labels"] != -100).nonzero()[0])
    expected = [-float(logprobs[place - 1, row["input_ids"][place]]) for place in range(start, len(row["input_ids"]))]
    assert trainer.token_views()[1]["series"]["loss"] == pytest.approx(expected, abs=1e-3)


def test_dpo_views_sum_to_the_difference_of_the_sequences(tmp_path: Path) -> None:
    trainer = dpo_trainer(tmp_path, max_steps=3, num_samples=2)
    trainer.train()
    views = lines(tmp_path / "token_views.jsonl")
    assert [view["title"] for view in views[:2]] == ["chosen", "rejected"]
    assert all(value == 0 for view in views if view["step"] == 0 for value in view["series"]["policy - reference"])
    rewards = [sum(view["series"]["policy - reference"]) * trainer.config.beta for view in views if view["step"] == 3]
    trainer.eval_dataset.answers = trainer.eval_dataset.answers[:2]
    trainer.eval_dataset.lengths = trainer.eval_dataset.lengths[:2]
    metrics = trainer.evaluate()
    assert (rewards[0] + rewards[2]) / 2 == pytest.approx(metrics["eval_chosen_rewards"], abs=1e-3)
    assert (rewards[1] + rewards[3]) / 2 == pytest.approx(metrics["eval_rejected_rewards"], abs=1e-3)


def test_a_reward_models_last_view_is_the_score(tmp_path: Path) -> None:
    trainer = small_reward_trainer(tmp_path, num_samples=2)
    trainer.model.offset = 0.5
    group = trainer.eval_dataset.group(1)
    ids = group.input_ids[0].tolist()
    prefixes = [ids[: end + 1] for end in range(group.prompt_length, len(ids))]
    shown = trainer.token_views()[2]["series"]["score"]
    assert shown == pytest.approx(score_rows(trainer.model, prefixes), abs=1e-3)


def test_ppo_views_are_the_arithmetic_of_ppo(tmp_path: Path) -> None:
    trainer = MAKERS["ppo"](tmp_path, reward_model=letter_reward_model_source(), max_steps=4, num_samples=2)
    trainer.train()
    view = lines(tmp_path / "token_views.jsonl")[-1]
    series = {name: torch.tensor(values, dtype=torch.float64) for name, values in view["series"].items()}
    score = float(view["title"].split("score ")[1])
    paid = trainer.kl.coefficient * series["kl"].sum()
    assert series["reward"].sum().item() == pytest.approx(score - paid.item(), abs=2e-2)
    advantages, _ = compute_gae(
        series["reward"][None],
        series["value"][None],
        trainer.config.gamma,
        trainer.config.gae_lambda,
        torch.ones(1, len(series["reward"]), dtype=torch.bool),
    )
    assert advantages[0].tolist() == pytest.approx(series["advantage"].tolist(), abs=1e-2)


def letter_reward_model_source() -> Any:
    from auto_bot_tuner.rewards import ModelReward
    from tests.rl_runs import letter_tokenizer

    return ModelReward(letter_reward_model(), letter_tokenizer())


def test_a_grpo_view_is_one_group(tmp_path: Path) -> None:
    trainer = MAKERS["grpo"](tmp_path, num_samples=2, beta=0.05)
    before = snapshot(trainer.model)
    views = trainer.token_views()
    assert len(views) == trainer.config.group_size and len({view["prompt"] for view in views}) == 1
    assert views[0]["series"].keys() == {"advantage", "logprob", "kl"}
    advantages = [view["series"]["advantage"][0] for view in views]
    assert sum(advantages) == pytest.approx(0, abs=1e-3) and max(advantages) > 0
    assert not trainer.window and not moved(before, trainer.model)


# ---- lineage ----


def make_run(folder: Path, method: str, model: Path | str, rewards: tuple[Path, ...] = ()) -> Path:
    (folder / "final").mkdir(parents=True)
    training = {"output_dir": str(folder)} | ({"reward_model": [str(path) for path in rewards]} if rewards else {})
    config = {"method": method, "model": {"name": str(model)}, "dataset": {"name": "x"}, "training": training}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "final"


def test_a_line_from_the_base_to_ppo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sft = make_run(Path("runs/sft"), "sft", "tiny")
    reward = make_run(Path("runs/reward"), "reward", sft)
    ppo = make_run(Path("runs/ppo"), "ppo", sft, (reward,))
    line = [("tiny", "base"), ("runs/sft", "sft"), ("runs/reward", "reward"), ("runs/ppo", "ppo")]
    (ppo / "adapter").mkdir()
    Path("runs/ppo/checkpoint-5").mkdir()
    for name in (str(ppo), "runs/ppo", "runs/ppo/checkpoint-5", str(ppo / "adapter"), str(ppo.resolve())):
        assert lineage_of(name) == line
    assert lineage_of(str(sft)) == line[:2]
    grpo = make_run(Path("runs/grpo"), "grpo", sft)
    config = Path("runs/grpo/config.yaml")
    config.write_text(config.read_text() + "  reward: [0.5*runs/reward, exact_match]\n")  # the last section's
    assert lineage_of(str(grpo)) == [*line[:3], ("runs/grpo", "grpo")]
    monkeypatch.chdir(tmp_path / "runs/sft")
    assert lineage_of("final")[-1] == (str(tmp_path / "runs/sft"), "sft")


def test_names_that_no_run_has_made_are_bases(tmp_path: Path) -> None:
    other = tmp_path / "model"
    other.mkdir()
    (other / "config.yaml").write_text("name: of another tool\n")
    for name in ("gpt2", "owner/name", str(other), str(tmp_path / "nowhere")):
        assert lineage_of(name) == [Ancestor(name, "base")]


def test_an_adapter_from_elsewhere_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')
    assert lineage_of(str(tmp_path)) == [("gpt2", "base"), (str(tmp_path), "adapter")]


def test_adapters_that_name_each_other_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, base in (("a", "b"), ("b", "a"), ("c", str(tmp_path / "c"))):
        Path(name).mkdir()
        Path(name, "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        assert lineage_of(name)[-1].name == name


def test_folders_that_name_each_other_end(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "sft", tmp_path / "b")
    make_run(tmp_path / "b", "dpo", tmp_path / "a")
    assert [step.method for step in lineage_of(str(tmp_path / "a"))] == ["base", "dpo", "sft"]


def test_what_a_run_wrote_down_holds_though_its_base_has_been_overwritten(tmp_path: Path) -> None:
    sft = make_run(tmp_path / "sft", "sft", "tiny")
    trainer = small_trainer(tmp_path / "dpo", max_steps=1)
    make_config = make_run(tmp_path / "config", "sft", sft).parent / "config.yaml"
    trainer.callbacks.append(
        lambda event: (tmp_path / "dpo/config.yaml").write_text(make_config.read_text()) if event.name == "start" else 0
    )
    trainer.train()
    (tmp_path / "sft/config.yaml").write_text((tmp_path / "sft/config.yaml").read_text().replace("tiny", "gpt2"))
    assert lineage_of(str(tmp_path / "sft"))[0].name == "gpt2"
    assert [step.name for step in lineage_of(str(tmp_path / "dpo"))][:2] == ["tiny", str(tmp_path / "sft")]


def test_a_line_is_read_without_torch(tmp_path: Path) -> None:
    code = "import sys, auto_bot_tuner.training.lineage as l; l.lineage_of('tiny'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"


def test_a_run_with_an_adapter_counts_what_it_trains(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, lora=True, max_steps=1)
    trainer.train()
    base = sum(p.numel() for p in small_model().parameters())
    model = record_of(tmp_path)["model"]
    assert model["parameters"] - model["trained_parameters"] == base
