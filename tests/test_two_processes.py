"""Two processes give the losses of one: each takes half of the cuts, and the weighted sums meet in the gradient."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import run_in_two
from tests.training_runs import logged, losses, small_trainer

WORKER = """
import sys
from pathlib import Path
from tests.training_runs import small_trainer

folder, mode = Path(sys.argv[1]), sys.argv[2]
# 2 x 2 x 2 processes = 8 rows a step, as the single process's 8 x 1.
settings = {"batch_size": 2, "gradient_accumulation_steps": 2, "eval_steps": 4, "save_steps": 4, "lora": mode == "lora"}
trainer = small_trainer(folder, **settings)
assert trainer.processes == 2, trainer.processes  # `accelerate launch --cpu` would silently give one
trainer.train()
"""


def two_processes(folder: Path, mode: str) -> None:
    worker = folder.parent / f"worker_{mode}.py"
    worker.write_text(WORKER)
    run_in_two(worker, str(folder), mode)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_two_processes_give_the_losses_of_one(tmp_path: Path, mode: str) -> None:
    small_trainer(tmp_path / "one", eval_steps=4, lora=mode == "lora").train()
    two_processes(tmp_path / "two", mode)
    assert len(losses(tmp_path / "one")) == 10
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    evaluations = [
        [(line["step"], line["eval_loss"]) for line in logged(tmp_path / name) if "eval_loss" in line]
        for name in ("one", "two")
    ]
    assert [step for step, _ in evaluations[1]] == [0, 4, 8, 10]
    assert [loss for _, loss in evaluations[1]] == pytest.approx([loss for _, loss in evaluations[0]], abs=1e-5)
    assert (tmp_path / "two" / "checkpoint-8" / "rng-1.safetensors").exists()
