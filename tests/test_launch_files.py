"""The launch files of configs/launch: accelerate takes them, what they say is read, and what is not read is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from auto_bot_tuner.training import engine, sharding, zero
from auto_bot_tuner.utils.errors import UserError
from tests.processes import ROOT
from tests.rl_runs import ppo_trainer
from tests.training_runs import logged

FILES = sorted((ROOT / "configs" / "launch").glob("*.yaml"))
BY_DEEPSPEED = [file for file in FILES if "deepspeed_config" in file.read_text()]
SHARDED = [file for file in FILES if "fsdp_config" in file.read_text()]


def set_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `accelerate launch` passes a file on to its processes."""
    for name, value in yaml.safe_load(file.read_text())["fsdp_config"].items():
        monkeypatch.setenv(name.upper(), str(value).lower())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_line_says_why_and_names_a_setting_of_accelerate(file: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    config = load_config_from_file(str(file))  # unknown names are an error
    assert isinstance(config, ClusterConfig)
    assert "accelerate launch --config_file configs/launch/" in file.read_text()


@pytest.mark.parametrize("file", SHARDED, ids=lambda file: file.stem)
def test_the_files_are_accepted(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(file, monkeypatch)
    sharding.check_settings("bf16", compiles=False)


@pytest.mark.parametrize("file", BY_DEEPSPEED, ids=lambda file: file.stem)
def test_deepspeeds_files_are_accepted(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in yaml.safe_load(file.read_text())["deepspeed_config"].items():
        monkeypatch.setenv(f"ACCELERATE_DEEPSPEED_{name.upper()}", str(value).lower())
    zero.check_settings("bf16")
    for setting, wrong, cure in (
        ("ZERO_STAGE", "3", "fsdp.yaml"),
        ("OFFLOAD_PARAM_DEVICE", "cpu", "none"),
        ("OFFLOAD_OPTIMIZER_DEVICE", "nvme", "cpu or none"),
        ("CONFIG_FILE", "ds.json", "deepspeed_zero2.yaml"),
    ):
        with monkeypatch.context() as here, pytest.raises(UserError, match=cure):
            here.setenv(f"ACCELERATE_DEEPSPEED_{setting}", wrong)
            zero.check_settings("bf16")
    with pytest.raises(UserError, match="bf16"):
        zero.check_settings("fp16")


@pytest.mark.parametrize(
    ("setting", "value", "cure"),
    [
        ("FSDP_VERSION", "1", "fsdp_version: 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "set it to false"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "--gradient-checkpointing"),
    ],
)
def test_what_is_not_obeyed_is_refused(monkeypatch: pytest.MonkeyPatch, setting: str, value: str, cure: str) -> None:
    set_environment(ROOT / "configs" / "launch" / "fsdp.yaml", monkeypatch)
    monkeypatch.setenv(setting, value)
    with pytest.raises(UserError, match=cure):
        sharding.check_settings("fp32", compiles=False)


@pytest.mark.parametrize(("precision", "compiles", "cure"), [("fp16", False, "bf16"), ("fp32", True, "--compile")])
def test_what_does_not_go_together_is_refused(
    monkeypatch: pytest.MonkeyPatch, precision: str, compiles: bool, cure: str
) -> None:
    set_environment(ROOT / "configs" / "launch" / "fsdp.yaml", monkeypatch)
    with pytest.raises(UserError, match=cure):
        sharding.check_settings(precision, compiles)


@pytest.mark.parametrize("asked", ["is_sharded", "is_partitioned"])
def test_ppo_with_its_two_trained_models_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str
) -> None:
    monkeypatch.setattr(engine, asked, lambda _: True)
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    with pytest.raises(UserError, match=r"PPO trains two models.*ddp\.yaml and --lora, or use GRPO"):
        ppo_trainer(tmp_path)


@pytest.mark.long
def test_accelerate_launches_two_processes_on_this_cpu(tmp_path: Path) -> None:
    """As docs/scaling.md shows it, with fewer rows."""
    file = "configs/launch/fsdp_cpu.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, "main.py", "train-config"]
    more = ["configs/sft_tiny_quick.yaml", "--max-steps", "2", "--max-samples", "128", "--num-samples", "0"]
    folder = tmp_path / "run"
    done = subprocess.run(
        [*command, *more, "--output-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "processes 2" in done.stdout
    assert [line["step"] for line in logged(folder) if "loss" in line] == [1, 2]
    assert (folder / "final" / "model.safetensors").exists()
