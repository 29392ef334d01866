"""Two processes give the losses of one: each takes half of the cuts, and the weighted sums meet in the gradient.

With whole weights on both (DDP), and with half of all weights on each (FSDP, which is ZeRO's stage 3; its stage 2).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.process_runs import RUNS, make
from tests.processes import ROOT, start_two
from tests.training_runs import logged, weights

WORKER = ROOT / "tests" / "process_runs.py"
FAST = ["ddp/sft full", "ddp/reward lora", "ddp/dpo precomputed", "ddp/kto copy"]
FAST_SHARDED = ["fsdp/dpo copy", "fsdp/sft lora", "zero2/sft full"]
REST = [f"{kind}/{run}" for kind in ("ddp", "fsdp") for run in RUNS if f"{kind}/{run}" not in FAST + FAST_SHARDED]
RENAMED = re.compile("seconds|per_second")  # what a clock made


def of_two(folder: Path, names: list[str]) -> tuple[Path, str]:
    """The folder of these runs of two processes, and what they said. None may be missing, but for the end of one."""
    done = start_two(WORKER, str(folder), *names)
    for name in names:
        assert name == "end" or done.stdout.count(f"done: {name}\n") == 2, (name, done.stderr[-3000:])
    return folder, done.stdout + done.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return of_two(tmp_path_factory.mktemp("two"), [*FAST, *FAST_SHARDED, "resume", "stop", "fail alone", "end"])


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return of_two(tmp_path_factory.mktemp("rest"), REST)


@pytest.mark.parametrize("name", [*FAST, *FAST_SHARDED])
def test_two_processes_give_the_run_of_one(tmp_path: Path, two: tuple[Path, str], name: str) -> None:
    check_run(tmp_path, two[0], name)


@pytest.mark.long
@pytest.mark.parametrize("name", REST)
def test_two_processes_give_the_run_of_one_in_every_method(tmp_path: Path, rest: tuple[Path, str], name: str) -> None:
    check_run(tmp_path, rest[0], name)


# What has been run by DeepSpeed; its first start on a CPU compiles for minutes.
BY_DEEPSPEED = [
    *(f"deepspeed/{run}" for run in ("sft full", "sft lora", "reward lora", "dpo copy", "dpo adapter_off", "kto copy")),
    "deepspeed/grpo full",
    "deepspeed offload/sft full",
]


@pytest.fixture(scope="module")
def deepspeed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    pytest.importorskip("deepspeed")
    return of_two(tmp_path_factory.mktemp("deepspeed"), [*BY_DEEPSPEED, "deepspeed resume"])


@pytest.mark.long
@pytest.mark.parametrize("name", BY_DEEPSPEED)
def test_deepspeed_gives_the_run_of_one(tmp_path: Path, deepspeed: tuple[Path, str], name: str) -> None:
    check_run(tmp_path, deepspeed[0], name)


@pytest.mark.long
def test_deepspeed_goes_on_with_the_same_bits(deepspeed: tuple[Path, str]) -> None:
    check_resumed(deepspeed[0] / "deepspeed resume")


@pytest.mark.long
def test_what_deepspeed_saved_one_process_goes_on_with(tmp_path: Path, deepspeed: tuple[Path, str]) -> None:
    shutil.copytree(deepspeed[0] / "deepspeed" / "sft full" / "checkpoint-3", tmp_path / "checkpoint-3")
    make("sft full", tmp_path, processes=1, resume=True).train()
    compare(weights(deepspeed[0] / "deepspeed" / "sft full" / "final"), weights(tmp_path / "final"))


def check_run(one: Path, folder: Path, name: str) -> None:
    """The same lines, metrics to 1e-5, checkpoints and final weights; files whole and plain wherever weights were cut.

    GRPO's second epoch of a rollout starts from weights that differ by rounding, and clips by it: a hair more.
    """
    tolerance = 1e-3 if "grpo" in name else 1e-5
    make(name.partition("/")[2], one, processes=1).train()
    mine, theirs = numbers(one), numbers(folder / name)
    assert len(mine) == len(theirs) > 6
    for line, found in zip(mine, theirs, strict=True):
        assert line.keys() == found.keys()
        for key, value in line.items():
            assert found[key] == pytest.approx(value, abs=tolerance, rel=tolerance), (line["step"], key)
    files = [path.relative_to(one) for path in one.rglob("*.safetensors") if path.name != "rollout.safetensors"]
    assert len(files) >= 5
    for file in files:
        if not file.name.startswith("rng-"):
            compare(weights(one, str(file)), weights(folder / name, str(file)))
    last = max((folder / name).glob("checkpoint-*"))
    assert (last / "rng-1.safetensors").exists()
    assert sorted(path.name for path in (one / "final").iterdir()) == sorted(
        path.name for path in (folder / name / "final").iterdir()
    )


def numbers(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if isinstance(value, int | float) and not RENAMED.search(name)}
        for line in logged(folder)
    ]


def compare(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        # A step is lr x m / sqrt(v): where a gradient is all rounding, so is its step. lr is 0.01.
        assert torch.allclose(tensor.float(), other[name].float(), atol=1e-4), name


def test_a_sharded_run_goes_on_with_the_same_bits(two: tuple[Path, str]) -> None:
    check_resumed(two[0] / "resume")


def check_resumed(folder: Path) -> None:
    whole, resumed = folder / "whole", folder / "resumed"
    for file in ("final/model.safetensors", "checkpoint-6/optimizer.safetensors"):
        one, other = weights(whole, file), weights(resumed, file)
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items()), file


@pytest.mark.parametrize("name", ["ddp/sft full", "zero2/sft full"])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, two: tuple[Path, str], name: str) -> None:
    shutil.copytree(two[0] / name / "checkpoint-3", tmp_path / "checkpoint-3")
    make("sft full", tmp_path, processes=1, resume=True).train()
    compare(weights(two[0] / name / "final"), weights(tmp_path / "final"))


def test_what_sharded_weights_leave_is_a_plain_model(two: tuple[Path, str]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(two[0] / "fsdp" / "dpo copy" / "final")
    saved = weights(two[0] / "fsdp" / "dpo copy" / "checkpoint-6")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items() if name in saved)


def test_both_stop_where_one_is_asked_to(two: tuple[Path, str]) -> None:
    folder, said = two
    assert "process 0 stopped at 2" in said and "process 1 stopped at 2" in said
    assert (folder / "stop" / "checkpoint-2" / "trainer_state.json").exists()


def test_what_fails_on_the_main_process_fails_on_both(two: tuple[Path, str]) -> None:
    assert "process 0 failed: OSError" in two[1] and "process 1 failed: UserError" in two[1]


def test_no_process_waits_for_one_that_has_died(two: tuple[Path, str]) -> None:
    """That the processes came to an end at all says it."""
    assert "planted error" in two[1] and "done: end" not in two[1]
