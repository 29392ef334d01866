"""PPO and GRPO, killed and resumed, give the bits of a run that was not: in the middle of a rollout and between two."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.training.events import Event
from auto_bot_tuner.training.run_folder import checkpoints
from auto_bot_tuner.training.soundness import write_state
from auto_bot_tuner.utils.errors import Interrupted, UserError
from tests.fault_cases import without_clock
from tests.faults import in_a_child, killing_at
from tests.rl_runs import grpo_trainer, imitation_rows, letter_prompts, ppo_trainer, run_logged
from tests.training_runs import weights

# Twelve steps, four to a rollout; logs, evaluations and saves at different rhythms. Every second checkpoint falls into
# the middle of a rollout.
RHYTHM: dict[str, Any] = {
    "num_epochs": 1.5,
    "minibatches": 2,
    "epochs_per_rollout": 2,
    "logging_steps": 3,
    "eval_steps": 5,
    "save_steps": 2,
    "save_total_limit": 0,
    "lr_schedule": "linear",
}
# All that PPO carries from step to step is on: a price that moves, a running deviation, rollouts left early, SFT rows.
CARRIED: dict[str, Any] = {
    "kl_target": 1.0,
    "kl_horizon": 50,
    "scale_rewards": True,
    "early_stop_kl": 2e-3,
    "missing_eos_penalty": 0.5,
}


def ppo(folder: Path, lora: bool = False, **settings: Any) -> Any:
    evaluated = {"eval_dataset": letter_prompts(5, 9)}
    return ppo_trainer(folder, lora=lora, imitated=imitation_rows(), **{**RHYTHM, **CARRIED, **evaluated, **settings})


def grpo(folder: Path, lora: bool = False, **settings: Any) -> Any:
    settings = {"beta": 0.05, "loss": "dapo", "eval_dataset": letter_prompts(5, 9), **settings}
    return grpo_trainer(folder, lora=lora, **{**RHYTHM, **settings})


KINDS: dict[str, tuple[Callable[..., Any], bool]] = {
    "ppo": (ppo, False),
    "ppo with lora": (ppo, True),
    "grpo": (grpo, False),
    "grpo with lora": (grpo, True),
}


def run(kind: str, folder: Path, callback: Callable[[Event], None] | None = None, **settings: Any) -> None:
    make, lora = KINDS[kind]
    trainer = make(folder, lora, **settings)
    trainer.callbacks += [callback] if callback else []
    trainer.train()


def same_run(one: Path, other: Path) -> None:
    """Metrics, final weights, and all that the last checkpoint holds."""
    assert run_logged(one) == run_logged(other)
    files = ["final/model.safetensors"]
    files += [f"checkpoint-12/{path.name}" for path in (one / "checkpoint-12").glob("*.safetensors")]
    assert len(files) >= 4
    for name in files:
        first, second = weights(one, name), weights(other, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[key]) for key, tensor in first.items()), name
    states = [json.loads((folder / "checkpoint-12" / "trainer_state.json").read_text()) for folder in (one, other)]
    assert without_clock(states[0]) == without_clock(states[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an uninterrupted run of a kind; run once."""

    @cache
    def folder_of(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("whole") / "run"
        assert in_a_child(lambda: run(kind, folder)) == 0
        return folder

    return folder_of


@pytest.mark.parametrize(
    ("kind", "step"),  # resumed from 2 and 10, in the middle of a rollout; from 4, between two
    [("ppo", 3), ("ppo", 5), ("ppo with lora", 3), ("grpo", 3)],
)
def test_killed_after_a_step(whole: Callable[[str], Path], kind: str, step: int, tmp_path: Path) -> None:
    assert in_a_child(lambda: run(kind, tmp_path, killing_at(step))) == -signal.SIGKILL
    newest = checkpoints(tmp_path)[-1]
    assert newest.name == f"checkpoint-{step - 1}"
    assert (newest / "rollout.safetensors").exists() == (step in (3, 11))
    assert in_a_child(lambda: run(kind, tmp_path, resume=True)) == 0
    same_run(tmp_path, whole(kind))


@pytest.mark.parametrize("kind", ["ppo", "ppo with lora", "grpo"])
def test_what_is_resumed_was_worth_a_test(whole: Callable[[str], Path], kind: str) -> None:
    """Steps were skipped, the price moved, a deviation was measured: else the tests above would prove little."""
    state = json.loads((whole(kind) / "checkpoint-10" / "trainer_state.json").read_text())
    if kind.startswith("ppo"):
        assert state["skipped"] > 0 and state["ppo"]["deviation"]["count"] == 24
        assert state["ppo"]["kl"]["coefficient"] != 0.05
    assert {"window", "is_stopped", "health"} == state["rollouts"].keys()
    assert len({line["reward"] for line in run_logged(whole(kind)) if "reward" in line}) == 3


def test_ctrl_c_in_the_middle_of_a_rollout(whole: Callable[[str], Path], tmp_path: Path) -> None:
    def press(event: Event) -> None:
        if event.name == "step" and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupted() -> None:
        with pytest.raises(Interrupted, match="step 3 of 12"):
            run("ppo", tmp_path, press)

    assert in_a_child(interrupted) == 0
    assert checkpoints(tmp_path)[-1].name == "checkpoint-3"
    assert in_a_child(lambda: run("ppo", tmp_path, resume=True)) == 0
    same_run(tmp_path, whole("ppo"))


def test_resuming_a_finished_run_changes_nothing(whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole("ppo"), folder)
    assert in_a_child(lambda: run("ppo", folder, resume=True)) == 0
    same_run(folder, whole("ppo"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kl_coefficient": 0.2}, "ppo was"),
        ({"temperature": 0.9}, "rollout was"),
        ({"reward_clip": 1.0}, "reward was"),
        ({"prompt_dataset": letter_prompts(16, 6)}, "data was"),
    ],
)
def test_a_resumed_run_is_the_same_run_or_none(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    ppo_trainer(tmp_path, save_steps=1, max_steps=1).train()
    with pytest.raises(UserError, match=said):
        ppo_trainer(tmp_path, max_steps=1, resume=True, **change).train()


def test_a_checkpoint_without_its_value_network_says_so(tmp_path: Path) -> None:
    ppo_trainer(tmp_path / "run", save_steps=1, max_steps=2).train()
    for path in checkpoints(tmp_path / "run"):
        (path / "value_network.safetensors").unlink()
        state = json.loads((path / "trainer_state.json").read_text())
        write_state(path, {name: value for name, value in state.items() if "checksum" not in name})
    with pytest.raises(UserError, match="cannot resume from"):
        ppo_trainer(tmp_path / "run", max_steps=2, resume=True).train()
