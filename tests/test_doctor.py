"""`doctor`: what it says is so, it says it everywhere, and it ends with 1 only where no training can work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import main
from auto_bot_tuner.utils import checkup, machine
from auto_bot_tuner.utils.checkup import WAYS, largest, libraries
from commands import doctor_checks as look
from commands.doctor import what_fits

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `doctor --json`: (exit code, screen, errors, JSON)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def run() -> tuple[int, str, str, dict[str, Any]]:
        code = main.main(["doctor", "--json", "doctor.json"])
        out, err = capsys.readouterr()
        return code, out, err, json.loads((tmp_path / "doctor.json").read_text())

    return run


def check_of(found: dict[str, Any], name: str) -> dict[str, str]:
    return next(check for check in found["checks"] if check["name"] == name)


def test_it_finds_what_is_here_and_shows_no_secret(report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    code, out, err, found = report()
    assert (code, err) == (0, "") and found["works"]
    assert torch.__version__ in check_of(found, "PyTorch")["text"]
    assert "fp32 yes" in check_of(found, "precision")["text"]
    assert f"PyTorch's threads: {torch.get_num_threads()}" in check_of(found, "cores")["text"]
    assert "HF_HUB_OFFLINE" in check_of(found, "hub")["text"]
    assert check_of(found, "hub token")["state"] == "fine"
    assert "hf_verysecret" not in out + json.dumps(found)
    assert max(map(len, out.splitlines())) <= 80
    assert "Training works here" in out and "up to" in out


def test_a_library_that_is_too_old_ends_it_with_1_and_the_cure(report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "installed", lambda name: {"peft": "0.1"}.get(name, "99"))
    code, out, err, found = report()
    assert code == 1 and not found["works"]
    assert err == "error: no training can work here: peft 0.1 is too old, wanted is >=0.18; make install\n"
    assert "0.1 is too old" in out


def test_without_a_working_torch_the_report_says_so_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONIOENCODING": "ascii",  # and a terminal that knows no ✓
    }
    words = [sys.executable, str(ROOT / "main.py"), "doctor"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no training can work here: PyTorch cannot be imported: libcudart.so.12")
    assert done.stderr.count("\n") == 1 and "make install" in done.stderr
    assert "x PyTorch" in done.stdout and "+ Python" in done.stdout  # the other checks were made all the same
    assert "hub cache" in done.stdout


def test_a_hub_that_does_not_answer_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    check = look.hub()
    assert check.state == "note" and "does not answer" in check.text and "--model tiny" in check.cure


def test_a_probe_that_breaks_or_hangs_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    def broken() -> Any:
        raise RuntimeError("of no kind that was expected")

    monkeypatch.setattr(look, "PATIENCE", 0.1)
    assert "of no kind that was expected" in look.patiently(broken, "x")().text
    assert "no answer within" in look.patiently(lambda: time.sleep(5), "x")().text  # type: ignore[arg-type,return-value]


def test_more_threads_than_cores_and_full_disks_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "cores", lambda: (2.5, 64))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert "OMP_NUM_THREADS=2" in look.processor(torch).cure
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert look.processor(torch).state == "fine"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert look.processor(torch).state == "note"
    monkeypatch.setattr(machine, "disk", lambda path: (tmp_path, 10**9, True))
    full = look.room("checkpoints", tmp_path / "x", "name another --output-dir")
    assert full.state == "wrong" and "1.0 GB free" in full.text and "another --output-dir" in full.cure
    monkeypatch.setattr(machine, "disk", lambda path: (tmp_path, 10**12, False))
    assert "cannot be written to" in look.room("checkpoints", tmp_path / "x", "").text


def test_limits_of_a_container_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000")
    (tmp_path / "memory.max").write_text("1000000")
    (tmp_path / "memory.current").write_text("400000")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.cores()[0] == 0.5
    assert machine.memory() == (1_000_000, 600_000)
    # Files that were read lie in the container's memory too, and make room when it is needed.
    (tmp_path / "memory.stat").write_text("anon 300000\nactive_file 20000\ninactive_file 80000\n")
    assert machine.memory() == (1_000_000, 680_000)
    for name in ("cpu.max", "memory.max"):
        (tmp_path / name).write_text("max 100000" if name == "cpu.max" else "max")
    assert machine.cores()[0] >= 1 and machine.memory()[0] > 10**8


def test_a_precision_that_a_device_lacks_is_none() -> None:
    assert machine.try_precision(torch, "cpu", "fp32") is not None
    assert machine.try_precision(torch, "no-such-device", "bf16") is None


def test_a_gpu_is_what_a_run_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a PyTorch with two GPUs: what is asked of it is what the real one answers."""
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        mem_get_info=lambda index: (70 * machine.GIB, 80 * machine.GIB),
        get_device_name=lambda index: f"Card {index}",
    )
    stand_in = SimpleNamespace(cuda=cuda, version=SimpleNamespace(hip="6.4", cuda=None))
    first, second, last = machine.devices(stand_in)
    assert (first.kind, first.name, first.total, second.name, last.kind) == (
        "cuda",
        "Card 0",
        80 * machine.GIB,
        "Card 1",
        "cpu",
    )
    assert machine.build(stand_in) == "ROCm 6.4"
    monkeypatch.setattr(checkup, "installed", lambda name: "")
    fits = {fit["way"]: fit for fit in what_fits(first)}
    assert (
        fits["full"]["largest_weights"] == int(70 * machine.GIB * 0.8 / 16)
        and fits["full"]["such_as"] == "Llama-3.2-3B"
    )
    assert fits["QLoRA"]["missing"] == "bitsandbytes" and fits["QLoRA"]["such_as"] == "Llama-3.1-70B"
    assert what_fits(last)[-1] == {**fits["QLoRA"], "largest_weights": 0, "such_as": "", "missing": "a GPU"}


def test_the_rule_of_thumb_is_the_arithmetic_of_adamw() -> None:
    full, lora, lora_bf16, qlora = (largest(way, 16 * 10**9) for way in WAYS)
    assert full == pytest.approx(0.8 * 16e9 / (4 + 4 + 8))
    assert lora == pytest.approx(0.8 * 16e9 / (4 + 0.01 * 16))
    assert full < lora < lora_bf16 < qlora


def test_libraries_are_compared_with_the_bounds() -> None:
    wanted = [("", "torch>=2.6"), ("", "numpy>=999"), ("gguf", "no-such-library>=1"), ("dev", "pytest>=8")]
    found = {library.name: library for library in libraries(wanted)}
    assert set(found) == {"torch", "numpy", "no-such-library"}
    assert not found["torch"].is_too_old and found["numpy"].is_too_old
    assert found["no-such-library"].is_missing and found["no-such-library"].extra == "gguf"


def test_every_extra_of_the_project_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) - {"dev", "docs"} == set(look.EXTRAS)
