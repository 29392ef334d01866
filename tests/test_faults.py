"""What a fault may not do to a run, in seconds; the hundred kills over every method are in `test_faults_long.py`."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auto_bot_tuner.training import durable, run_folder
from auto_bot_tuner.training.lock import birth_of, owner_of
from auto_bot_tuner.training.run_folder import LOCK, check_run_folder, checkpoints, clear_away, open_run_folder
from auto_bot_tuner.training.soundness import STATE_FILE, is_sound, is_whole, write_state
from auto_bot_tuner.utils.errors import UserError
from tests.fault_cases import Trial, whole_run
from tests.fault_runs import METHODS
from tests.faults import Watch, run_in_child
from tests.training_runs import losses, small_trainer

# A seed strikes at one place for ever, so these are five of them: in a save, in a half-written file, with a bit of the
# newest checkpoint turned over, without room on the disk, and in the writing of a rollout.
CASES = [("sft-lora", kind) for kind in ("save", "torn", "flipped bit", "full disk")] + [("grpo", "rollout")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_struck_and_resumed(method: str, kind: str, runs: Path, tmp_path: Path) -> None:
    trial = Trial(method, f"fast {kind}", whole_run(method, runs), tmp_path, again=0.0)
    trial.play(kind)
    assert trial.kills


# ---- the machine dies ----


def test_data_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the calls: every file of a folder, and the folder, before the rename; then the folder around it."""
    calls: list[tuple[str, Path]] = []
    rename = os.replace

    def synced(descriptor: int) -> None:
        calls.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def renamed(source: Path, target: Path) -> None:
        if ".part" in str(source):
            inside = list(source.rglob("*"))
            calls.extend(("needed", path) for path in [*inside, source])
            calls.append(("named", target))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    small_trainer(tmp_path, max_steps=1, save_steps=1, lora=True).train()
    named = {path.name for what, path in calls if what == "named"}
    assert {"checkpoint-1", "final", "run.json"} <= named
    for place, (what, path) in enumerate(calls):
        if what == "needed":
            assert ("sync", path) in calls[:place], path
        if what == "named":
            assert ("sync", path.parent) in calls[place:], path
    saved = calls.index(("named", tmp_path / "checkpoint-1"))
    assert ("sync", tmp_path / "metrics.jsonl") in calls[:saved]  # what the checkpoint stands for is not lost


# ---- nothing is half there ----


def test_what_is_deleted_loses_its_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "weights").write_text("weights")
        write_state(tmp_path / f"checkpoint-{step}", {"step": step})

    def killed(path: Path, **_: Any) -> None:
        if path.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run_folder.prune(tmp_path, 1, None, 2)
    monkeypatch.undo()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"] and is_sound(tmp_path / "checkpoint-2")
    clear_away(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_leftovers_of_a_killed_run_go_and_other_peoples_files_stay(tmp_path: Path) -> None:
    for name in (".checkpoint-5.part", ".checkpoint-2.gone", ".final.part", ".final.old", ".save-test.part"):
        (tmp_path / name).mkdir()
    (tmp_path / ".final.old" / "model").write_text("the only final/ there is")
    for name in (".run.json.part", ".metrics.jsonl.part", ".mine.part", ".hidden"):
        (tmp_path / name).write_text("")
    clear_away(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".mine.part", "final"]
    assert (tmp_path / "final" / "model").exists()


def damaged(checkpoint: Path, how: str) -> None:
    weights, state = checkpoint / "model.safetensors", checkpoint / STATE_FILE
    content = weights.read_bytes()
    if how == "cut short":
        weights.write_bytes(content[:-1])
    elif how == "one bit":
        weights.write_bytes(content[:500] + bytes([content[500] ^ 4]) + content[501:])
    elif how == "no file":
        weights.unlink()
    elif how == "empty state":
        state.write_text("{}")
    elif how == "no object":
        state.write_text("[1]")
    elif how == "nested":
        state.write_text("[" * 100_000)
    elif how == "elsewhere":
        state.write_text(json.dumps({"files": {"/etc/hostname": Path("/etc/hostname").stat().st_size}}))
    else:  # the state itself
        state.write_text(state.read_text().replace('"step": 7', '"step": 8'))


@pytest.mark.parametrize(
    "how", ["cut short", "one bit", "no file", "empty state", "no object", "nested", "elsewhere", "one digit"]
)
def test_damage_is_found(tmp_path: Path, how: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(range(250)) * 4)
    write_state(tmp_path, {"step": 7})
    assert is_whole(tmp_path) and is_sound(tmp_path)
    damaged(tmp_path, how)
    assert not is_sound(tmp_path)
    assert is_whole(tmp_path) == (how in ("one bit", "one digit"))  # what only reading it all finds


def test_damaged_checkpoints_of_later_steps_do_not_push_out_the_good_ones(tmp_path: Path) -> None:
    for step in (10, 20, 30, 13):  # resumed from 10, and stopped after 13
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        write_state(folder, {"step": step})
        if step > 13:
            (folder / "model.safetensors").write_bytes(b"flipped")
    run_folder.prune(tmp_path, 2, None, 13)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-13"]


def test_a_checkpoint_of_before_the_checksums_is_taken_by_its_sizes(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / STATE_FILE).write_text(json.dumps({"step": 7, "files": {"model.safetensors": 7}}))
    assert is_sound(tmp_path)


# ---- whose folder it is ----


def test_the_mark_of_a_dead_process_holds_nobody_up(tmp_path: Path) -> None:
    """Its number may belong to another process by now; when that was born tells them apart."""
    config = small_trainer(tmp_path).config
    parent = os.getppid()
    (tmp_path / LOCK).write_text(f"{parent}\n1.00\n")
    assert owner_of(tmp_path) is None
    open_run_folder(config)
    assert owner_of(tmp_path) == os.getpid()
    for text in (f"{parent}\n", f"{parent}\n{birth_of(parent):.2f}\n"):  # the first: of an older version
        (tmp_path / LOCK).write_text(text)
        with pytest.raises(UserError, match=f"process {parent}"):
            check_run_folder(config)
    for text in ("", "no number", "-4\nx", "99999999999999\n2"):
        (tmp_path / LOCK).write_text(text)
        assert owner_of(tmp_path) is None


def test_of_two_runs_that_begin_at_once_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one marks the folder after this one has looked, and before it has written."""
    config = small_trainer(tmp_path).config
    parent = os.getppid()

    def look(_: Any) -> None:
        (tmp_path / LOCK).write_text(f"{parent}\n{birth_of(parent):.2f}\n")

    monkeypatch.setattr(run_folder, "check_run_folder", look)
    with pytest.raises(UserError, match="another run has just begun"):
        open_run_folder(config)
    assert owner_of(tmp_path) == parent


def test_a_run_killed_before_its_first_checkpoint_says_how_to_start_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(UserError, match=r"nothing to resume: .*; start anew with --overwrite instead of --resume$"):
        check_run_folder(small_trainer(tmp_path, resume=True).config)
    with pytest.raises(UserError, match="already holds a run") as refusal:
        check_run_folder(small_trainer(tmp_path).config)
    assert "final" not in str(refusal.value) and "--resume" not in str(refusal.value)  # there is neither


# ---- signals ----


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_breaks_off_at_once(tmp_path: Path, number: int, code: int) -> None:
    def twice(watch: Watch) -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    folder = tmp_path / "run"
    make: Callable[[], Any] = lambda: METHODS["sft-lora"](folder)  # noqa: E731
    outcome = run_in_child(make, folder, ("save", 60, twice))
    assert outcome.code == code
    assert outcome.said.strip().splitlines()[-1].startswith("error: broken off at once by the second signal, unsaved")
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert not list(folder.glob(".*"))  # no lock, nothing half-written


# ---- the disk ----


def test_a_full_disk_under_tensorboard_is_one_line(tmp_path: Path) -> None:
    """It writes in a thread of its own, which would print a traceback."""

    def full(watch: Watch) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        def write(self: Any, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        RecordWriter.write = write  # in a forked process, which ends here

    folder = tmp_path / "run"
    settings = {"report_to": ("tensorboard",), "num_samples": 0}
    outcome = run_in_child(lambda: METHODS["sft-lora"](folder, **settings), folder, ("step", 10, full))
    assert outcome.code == 1 and "Traceback" not in outcome.said
    assert f"error: cannot write to {folder} (No space left on device): make room there" in outcome.said


def test_a_disk_that_lets_nothing_be_deleted_does_not_hide_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    trainer = small_trainer(tmp_path, max_steps=2)
    trainer.callbacks.append(
        lambda event: monkeypatch.setattr(Path, "unlink", read_only) or read_only() if event.name == "log" else None
    )
    with pytest.raises(UserError, match=r"cannot write to .* \(Read-only file system\): make room there") as error:
        trainer.train()
    assert "\n" not in str(error.value)


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable.write_whole(tmp_path / "run.json", "old")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "sync", full)
    with pytest.raises(OSError, match="No space"):
        durable.write_whole(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text() == "old"


# ---- a run that early stopping had ended ----


def test_a_stopped_run_takes_no_further_step_when_its_end_is_repeated(tmp_path: Path) -> None:
    """Killed while it wrote final/: patience was at its end, and is still."""
    patient = {"early_stopping_patience": 1, "eval_steps": 2, "save_steps": 2, "learning_rate": 1e-9}
    small_trainer(tmp_path, **patient).train()
    before = losses(tmp_path)
    assert len(before) < 10
    shutil.rmtree(tmp_path / "final")
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"status": "running"}))
    small_trainer(tmp_path, resume=True, **patient).train()
    assert losses(tmp_path) == before and (tmp_path / "final").exists()
