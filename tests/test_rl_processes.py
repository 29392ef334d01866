"""Two processes write a rollout together and learn from it as one does: the same responses, the same losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import run_in_two
from tests.rl_runs import grpo_trainer, imitation_rows, letter_prompts, ppo_trainer, run_logged
from tests.training_runs import weights

WORKER = """
import sys
from pathlib import Path
from tests.test_rl_processes import METHODS, make

for method in METHODS:
    trainer = make(method, Path(sys.argv[1]) / method, processes=2)
    assert trainer.processes == 2, trainer.processes
    looked, views = [], trainer.token_views
    trainer.token_views = lambda: looked.append(found := views()) or found
    trainer.train()
    assert [bool(found) for found in looked] == ([True, True] if trainer.is_main else []), looked
"""
METHODS = ("ppo", "grpo")


def make(method: str, folder: Path, processes: int) -> Any:
    """Steps of 4 prompts, cut small, so that each process has several passes; the second rollout has 3 prompts only."""
    shared = {
        "batch_size": 4 // processes,
        "minibatches": 2,
        "epochs_per_rollout": 2,
        "prompt_dataset": letter_prompts(11),
        "eval_dataset": letter_prompts(5, 9),
        "micro_batch_tokens": 60,
        "save_steps": 3,
        "num_samples": 1,
    }
    if method == "grpo":
        return grpo_trainer(folder, beta=0.1, loss="dapo", **shared)
    return ppo_trainer(folder, imitated=imitation_rows(), kl_target=1.0, scale_rewards=True, **shared)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two processes, one after the other: starting them takes longer than the runs."""
    folder = tmp_path_factory.mktemp("two")
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    run_in_two(worker, str(folder))
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_give_the_losses_of_one(tmp_path: Path, two: Path, method: str) -> None:
    make(method, tmp_path, processes=1).train()
    one, other = run_logged(tmp_path), run_logged(two / method)
    assert len([line for line in one if "loss" in line]) == len([line for line in other if "loss" in line]) == 8
    # The first rollout: written by the policy as it starts, so the responses are the same; then rounding grows.
    for line, found in zip(one[:5], other[:5], strict=True):
        assert line.keys() == found.keys()
        for name in line.keys() - {"grad_norm"}:
            assert found[name] == pytest.approx(line[name], abs=1e-5), (line["step"], name)
    written = [weights(folder / "checkpoint-3", "rollout.safetensors") for folder in (tmp_path, two / method)]
    for name, tensor in written[0].items():
        assert torch.allclose(tensor.float(), written[1][name].float(), atol=1e-5), name
    assert (two / method / "checkpoint-6" / "rng-1.safetensors").exists()
