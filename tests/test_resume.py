"""A run that was stopped and resumed gives the bits of one that was not, and is refused where it would be another.

Kills in every part of a run: `test_faults.py`, and a hundred of them in `test_faults_long.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.training import checkpoint, run_folder
from auto_bot_tuner.training.events import Event
from auto_bot_tuner.training.run_folder import checkpoints, is_whole, newest_checkpoint
from auto_bot_tuner.utils.errors import Interrupted, UserError
from tests.faults import in_a_child, killing_at
from tests.training_runs import logged, small_trainer, weights

# Ten steps in two epochs; logs, evaluations and saves at different rhythms, so that a kill falls between them.
RHYTHM: dict[str, Any] = {"save_steps": 2, "logging_steps": 3, "eval_steps": 4, "num_epochs": 2, "noisy": True}


def run(folder: Path, callback: Callable[[Event], None] | None = None, **settings: Any) -> None:
    trainer = small_trainer(folder, **{**RHYTHM, **settings})
    trainer.callbacks += [callback] if callback else []
    trainer.train()


def same_run(one: Path, other: Path, name: str = "model.safetensors") -> None:
    assert logged(one) == logged(other)
    first, second = weights(one / "final", name), weights(other / "final", name)
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key


@pytest.fixture(scope="module", params=["full", "lora"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp(request.param) / "uninterrupted"
    lora = request.param == "lora"
    assert in_a_child(lambda: run(folder, lora=lora)) == 0
    return {"lora": lora, "reference": folder}


def test_killed_in_the_middle_of_an_epoch(kind: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    assert in_a_child(lambda: run(folder, killing_at(3), lora=kind["lora"])) == -signal.SIGKILL
    assert in_a_child(lambda: run(folder, lora=kind["lora"], resume=True)) == 0
    same_run(folder, kind["reference"])


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_saves_the_finished_step_and_says_how_to_go_on(
    number: signal.Signals, exit_code: int, kind: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "interrupted"

    def press(event: Event) -> None:
        if event.name == "step" and event.step == 5:
            os.kill(os.getpid(), number)

    def interrupted() -> None:
        with pytest.raises(Interrupted) as stop:
            run(folder, press, lora=kind["lora"])
        assert stop.value.exit_code == exit_code
        assert "step 5 of 10" in str(stop.value) and "--resume" in str(stop.value)

    assert in_a_child(interrupted) == 0
    assert checkpoints(folder)[-1].name == "checkpoint-5"
    assert in_a_child(lambda: run(folder, lora=kind["lora"], resume=True)) == 0
    same_run(folder, kind["reference"])


def test_resuming_a_finished_run_changes_nothing(kind: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(kind["reference"], folder)
    assert in_a_child(lambda: run(folder, lora=kind["lora"], resume=True)) == 0
    same_run(folder, kind["reference"])


def test_a_finished_run_is_not_resumed_from_before_its_end(kind: dict[str, Any], tmp_path: Path) -> None:
    """Its last steps would be taken again, and its logs cut for that."""
    folder = tmp_path / "copy"
    shutil.copytree(kind["reference"], folder)
    shutil.rmtree(folder / "checkpoint-10")
    logged = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"has finished, 10 of 10 steps; train on from it with --model .*final"):
        run(folder, lora=kind["lora"], resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == logged
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_resuming_from_the_baseline_counts_it_once(tmp_path: Path) -> None:
    """keep_best saves checkpoint-0; were the baseline measured again, it would count as no progress."""
    patient = {"keep_best": True, "early_stopping_patience": 1, "eval_steps": 4, "save_steps": 0, "max_steps": 8}
    settings = {**patient, "learning_rate": 1e-9, "logging_steps": 4}  # nothing gets better: patience runs out at 4
    assert in_a_child(lambda: run(tmp_path / "whole", **settings)) == 0
    assert in_a_child(lambda: run(tmp_path / "killed", killing_at(2), **settings)) == -signal.SIGKILL
    assert [path.name for path in checkpoints(tmp_path / "killed")] == ["checkpoint-0"]
    assert in_a_child(lambda: run(tmp_path / "killed", resume=True, **settings)) == 0
    same_run(tmp_path / "killed", tmp_path / "whole")


def test_resume_with_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        small_trainer(tmp_path, resume=True).train()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(kind: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(kind["reference"], folder)
    newest = folder / "checkpoint-10" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert not is_whole(newest.parent)
    assert newest_checkpoint(folder) == folder / "checkpoint-8"
    stopped = json.loads((folder / "run.json").read_text()) | {"status": "interrupted"}
    (folder / "run.json").write_text(json.dumps(stopped))
    assert in_a_child(lambda: run(folder, lora=kind["lora"], resume=True)) == 0
    same_run(folder, kind["reference"])
    assert is_whole(newest.parent)  # written anew


def test_a_resumed_run_must_have_the_same_rows_per_step(tmp_path: Path) -> None:
    small_trainer(tmp_path, save_steps=2, max_steps=2).train()
    with pytest.raises(UserError, match="rows per step was 8 and is 4"):
        small_trainer(tmp_path, batch_size=4, max_steps=2, resume=True).train()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 5e-2}, "learning rate was 0.01"),
        ({"max_steps": 4}, "total steps was 2 and is 4"),
        ({"lora": True}, "trained weights was"),
        ({"seed": 1}, "seed was 42 and is 1"),
    ],
)
def test_a_resumed_run_is_the_same_run_or_none(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    small_trainer(tmp_path, save_steps=2, max_steps=2).train()
    with pytest.raises(UserError, match=said):
        small_trainer(tmp_path, **{"max_steps": 2, "resume": True, **change}).train()


def test_a_resumed_run_has_the_same_rows(tmp_path: Path) -> None:
    small_trainer(tmp_path, save_steps=2, max_steps=2).train()
    trainer = small_trainer(tmp_path, max_steps=2, resume=True)
    trainer.train_dataset = [{**row, "input_ids": row["input_ids"].flip(0)} for row in trainer.train_dataset]
    trainer.state.shape = trainer.shape()
    with pytest.raises(UserError, match="data was 37 rows"):
        trainer.train()


def test_a_full_disk_leaves_the_older_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    trainer = small_trainer(tmp_path, save_steps=2)
    trainer.callbacks.append(
        lambda event: monkeypatch.setattr(checkpoint, "save_file", full_disk) if event.step == 3 else None
    )
    with pytest.raises(UserError, match="No space left on device") as error:
        trainer.train()
    assert "\n" not in str(error.value)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]
    assert is_whole(tmp_path / "checkpoint-2")


def test_logs_are_cut_where_the_checkpoint_stands_and_torn_lines_go(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    run_folder.cut_logs(tmp_path, 2)
    assert log.read_text() == '{"step": 1, "loss": 2.0}\n'
    strange = '{"step": 1, "response": "a\u2028b\u0085c"}\n'.encode()  # line ends to Python, not to JSON lines
    (tmp_path / "samples.jsonl").write_bytes(strange + '{"step": 2, "response": "é'.encode()[:-1])
    run_folder.cut_logs(tmp_path, 5)
    assert (tmp_path / "samples.jsonl").read_bytes() == strange


def test_final_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "final"
    with run_folder.written_aside(final) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(UserError), run_folder.written_aside(final) as folder:
        (folder / "a").write_text("new")
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyError), run_folder.written_aside(final) as folder:  # a bug, or a library's
        (folder / "a").write_text("new")
        raise KeyError("a")
    assert (final / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, max_steps=2, save_steps=1)
    said = []

    def start_another(event: Event) -> None:
        if event.name == "save" and event.step == 1:
            assert in_a_child(lambda: said_by_another(tmp_path)) == 0
            said.append(True)

    trainer.callbacks.append(start_another)
    trainer.train()
    assert said and not (tmp_path / run_folder.LOCK).exists()


def said_by_another(folder: Path) -> None:
    for settings in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match="another run"):
            small_trainer(folder, max_steps=2, **settings).train()


def test_a_finished_run_without_checkpoints_is_not_sent_to_resume(tmp_path: Path) -> None:
    small_trainer(tmp_path, max_steps=1).train()
    with pytest.raises(UserError, match=r"--model .*final"):
        small_trainer(tmp_path, max_steps=1).train()
