"""What is here, read from folders as runs leave them, and what the menu proposes from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from auto_bot_tuner.utils import data_inventory, inventory
from src.menu import advice, home, stock


def run_folder(folder: Path, method: str = "sft", model: str = "tiny", **parts: bool) -> Path:
    """A run's folder; `final`, `checkpoint` and `lock` say what it has."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"method: {method}\nmodel: {{name: {model}}}\n")
    if parts.get("final", True):
        (folder / "final").mkdir()
    if parts.get("checkpoint", False):
        (folder / "checkpoint-6").mkdir()
        (folder / "checkpoint-6" / "weights").write_bytes(b"1234")
        state = {"step": 6, "shape": {"total_steps": 40}, "files": {"weights": 4}}
        (folder / "checkpoint-6" / "trainer_state.json").write_text(json.dumps(state))
    if parts.get("lock", False):
        (folder / ".running").write_text(str(os.getpid()))
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-cache"))
    return tmp_path


def at(folder: str, seconds: int) -> None:
    for path in [Path(folder), *Path(folder).iterdir()]:
        os.utime(path, (seconds, seconds))


def test_the_status_of_a_run_is_what_its_folder_says(root: Path) -> None:
    run_folder(Path("checkpoints/demo/done"))
    run_folder(Path("checkpoints/stopped"), final=False, checkpoint=True)
    run_folder(Path("checkpoints/a/b/alive"), final=False, lock=True)
    run_folder(Path("checkpoints/nothing"), final=False)
    found = {run.folder.name: run for run in inventory.runs(Path("checkpoints"))}
    assert {name: run.status for name, run in found.items()} == {
        "done": "finished", "stopped": "interrupted", "alive": "running", "nothing": "failed"
    }  # fmt: skip
    assert [name for name, run in found.items() if run.is_resumable] == ["stopped"]
    assert found["stopped"].total == 40 and found["done"].total is None


def test_a_damaged_checkpoint_is_none_and_a_killed_run_is_no_running_one(root: Path) -> None:
    folder = run_folder(Path("checkpoints/x"), final=False, checkpoint=True)
    (folder / "run.json").write_text(json.dumps({"status": "running", "method": "sft", "total_steps": 9}))
    (folder / ".running").write_text("999999999")  # no such process
    run = inventory.read_run(folder)
    assert (run.status, run.total) == ("interrupted", 9)
    (folder / "checkpoint-6" / "weights").write_bytes(b"12")
    assert inventory.read_run(folder).status == "failed"


def test_the_last_evaluation_and_step_are_read_from_the_end_of_the_log(root: Path) -> None:
    folder = run_folder(Path("checkpoints/x"), "reward")
    lines = [{"step": 0, "eval_loss": 0.7, "eval_accuracy": 0.5}]
    lines += [{"step": step, "loss": 0.1, "padding": "x" * 100} for step in range(1, 3000)]
    lines += [{"step": 3000, "eval_loss": 0.3, "eval_accuracy": 0.875}]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 3001, "lo'  # a kill cut the last one
    (folder / "metrics.jsonl").write_text(text)
    run = inventory.read_run(folder)
    assert run.step == 3000 and run.evaluation == {"loss": 0.3, "accuracy": 0.875} and run.figure == "accuracy 88%"


def test_files_that_are_broken_are_as_if_they_were_not_there(root: Path) -> None:
    folder = run_folder(Path("checkpoints/x"))
    (folder / "config.yaml").write_text("method: [")
    (folder / "run.json").write_text("{")
    (folder / "metrics.jsonl").write_bytes(b"\xff\xfe\n[]\n")
    run = inventory.read_run(folder)
    assert (run.method, run.model, run.step, run.status) == ("", "", 0, "finished")
    assert inventory.runs(root / "no-such-folder") == []


def test_the_tree_goes_from_the_base_to_what_was_made_of_it(root: Path) -> None:
    run_folder(Path("checkpoints/demo/sft"))
    run_folder(Path("checkpoints/demo/reward"), "reward", "checkpoints/demo/sft/final")
    run_folder(Path("checkpoints/ppo"), "ppo", "checkpoints/demo/sft/final", final=False, checkpoint=True)
    run_folder(Path("checkpoints/other"), "dpo", "somebody/model")
    for seconds, name in enumerate(["demo/sft", "demo/reward", "ppo", "other"], start=1000):
        at(f"checkpoints/{name}", seconds)
    lines = [(name, words) for name, words, _ in home.tree(stock.look_around())]
    assert [name for name, _ in lines] == [
        "somebody/model", "└─ other",
        "tiny", "└─ demo/sft", "   ├─ demo/reward", "   └─ ppo",
    ] or [name for name, _ in lines] == [
        "tiny", "└─ demo/sft", "   ├─ demo/reward", "   └─ ppo",
        "somebody/model", "└─ other",
    ]  # fmt: skip
    assert dict(lines)["   └─ ppo"] == "PPO, interrupted at step 6 of 40"


def test_a_run_without_a_config_is_told_by_its_record(root: Path) -> None:
    """Runs that a program made: their origin stands in run.json, or "from" is left out."""
    records = {
        "named": {"model": {"name": "tiny"}},
        "line": {"lineage": [{"name": "tiny", "method": "base"}, {"name": "rm", "method": "reward"}, {"name": "x"}]},
        "nameless": {"model": {"name": "a model without a name"}, "lineage": [{"name": "x", "method": "ppo"}]},
        "odd": {"model": [1], "lineage": [1, 2]},
    }
    for name, record in records.items():
        folder = run_folder(Path("checkpoints") / name)
        (folder / "config.yaml").unlink()
        (folder / "run.json").write_text(json.dumps({"method": "ppo", "status": "finished", **record}))
    found = {run.folder.name: stock.told(run) for run in stock.look_around().runs}
    assert found == {"named": "PPO from tiny", "line": "PPO from tiny", "nameless": "PPO", "odd": "PPO"}
    newest = Path("checkpoints/nameless")
    os.utime(newest / "run.json", (4e9, 4e9))
    for method in ("reward", "grpo"):  # nothing of the pipeline is missing
        run_folder(Path("checkpoints") / method, method)
    titles = [each.title for each in advice.suggestions(stock.look_around())]
    assert stock.look_around().runs[0].folder == newest
    assert titles == ["Compare grpo with what it came from"]  # a run of unknown origin is compared with nothing


@pytest.mark.parametrize("logged", [3, 9])
def test_an_interrupted_run_stands_where_its_newest_checkpoint_does(logged: int, root: Path) -> None:
    folder = run_folder(Path("checkpoints/x"), final=False, checkpoint=True)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": logged, "loss": 1.0}) + "\n")
    assert inventory.read_run(folder).step == 6
    (folder / ".running").write_text(str(os.getpid()))
    assert inventory.read_run(folder).step == logged


def test_a_model_that_names_itself_does_not_hang_the_tree(root: Path) -> None:
    run_folder(Path("checkpoints/a"), "sft", "checkpoints/a/final")
    run_folder(Path("checkpoints/b"), "sft", "checkpoints/c/final")
    run_folder(Path("checkpoints/c"), "sft", "checkpoints/b/final")
    assert any("a" in name for name, _, _ in home.tree(stock.look_around()))


def proposed() -> list[tuple[str, tuple[str, ...]]]:
    return [(each.draft.verb, each.draft.start) for each in advice.suggestions(stock.look_around())]


def test_what_makes_sense_next_follows_from_what_is_here(root: Path) -> None:
    assert proposed() == [("demo", ()), ("train-sft", ("--preset", "standard"))]
    run_folder(Path("checkpoints/sft"))
    assert [verb for verb, _ in proposed()] == ["train-reward", "train-dpo"]
    run_folder(Path("checkpoints/reward"), "reward", "checkpoints/sft/final")
    assert proposed() == [("train-ppo", ("--preset", "standard")), ("evaluate", ("reward",))]
    ppo = advice.suggestions(stock.look_around())[0].draft
    assert ppo.answers["--reward-model"][-1] == "checkpoints/reward/final"
    assert ppo.answers["--model"][-1] == "checkpoints/sft/final" and not ppo.complaint()
    run_folder(Path("checkpoints/ppo"), "ppo", "checkpoints/sft/final")
    assert proposed() == [("train-grpo", ("--preset", "standard")), ("evaluate", ("compare",))]
    run_folder(Path("checkpoints/grpo"), "grpo", "checkpoints/sft/final")
    assert [verb for verb, _ in proposed()] == ["evaluate"]
    compared = {str(run.final) for run in stock.look_around().runs}
    assert advice.suggestions(stock.look_around(), compared) == []


def test_an_interrupted_run_comes_first_and_its_line_is_complete(root: Path) -> None:
    run_folder(Path("checkpoints/sft"))
    run_folder(Path("checkpoints/later"), final=False, checkpoint=True)
    first = advice.suggestions(stock.look_around())[0]
    assert first.draft.line == "python main.py train-config checkpoints/later/config.yaml --resume"
    assert "step" in first.why


def test_rows_are_known_by_their_columns(root: Path) -> None:
    files = {
        "pairs.jsonl": '{"prompt": "a", "chosen": "b", "rejected": "c"}',
        "talk.jsonl": '{"messages": []}',
        "sums.csv": "question,answer\n1+1,2\n",
        "notes.csv": "when,who\n",
        "package.json": "{}",
        "broken.jsonl": "{",
    }
    for name, text in files.items():
        Path(name).write_text(text)
    found = {entry.name: entry.kinds for entry in data_inventory.own_files(root)}
    assert found == {
        "pairs.jsonl": ("preferences", "prompts"), "talk.jsonl": ("answers", "prompts"),
        "sums.csv": ("prompts",), "broken.jsonl": (),
    }  # fmt: skip


def test_every_bundled_data_set_says_what_it_serves() -> None:
    assert set(data_inventory.BUNDLED_KINDS) == set(data_inventory.BUNDLED_DATASETS)
    for role, name in stock.MADE_FOR.items():
        assert data_inventory.BUNDLED_KINDS[name][0] in stock.ROWS[role]
