"""Small runs that one process and two must take alike: with whole weights on both, and with half of them on each."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from auto_bot_tuner.sft import SFTConfig, SFTTrainer
from auto_bot_tuner.training import sharding
from auto_bot_tuner.training.zero import ZeroOptimizer
from auto_bot_tuner.utils.errors import Interrupted, UserError
from tests.preference_runs import Pairs, dpo_trainer, word_tokenizer
from tests.processes import SHARDED, ZERO
from tests.reward_runs import random_groups, small_reward_model, small_reward_trainer
from tests.rl_runs import grpo_trainer, letter_prompts
from tests.training_runs import SHORT_RUN, random_rows, small_model

# Of each run: whose, whether it trains an adapter, and settings.
RUNS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "sft full": ("sft", False, {"weight_decay": 0.1}),
    "sft recomputing": ("sft", False, {"gradient_checkpointing": True}),
    "sft lora": ("sft", True, {}),
    "reward full": ("reward", False, {}),
    "reward lora": ("reward", True, {}),
    "reward frozen base": ("reward", False, {"frozen_base": True}),
    "dpo copy": ("dpo", False, {"reference": "copy"}),
    "dpo precomputed": ("dpo", False, {"reference": "precomputed"}),
    "dpo adapter_off": ("dpo", True, {"reference": "adapter_off"}),
    "dpo adapter_copy": ("dpo", True, {"reference": "adapter_copy"}),
    "ipo copy": ("dpo", False, {"loss": "ipo"}),
    "hinge copy": ("dpo", False, {"loss": "hinge"}),
    "conservative copy": ("dpo", False, {"loss": "conservative", "label_smoothing": 0.1}),
    "robust copy": ("dpo", False, {"loss": "robust", "label_smoothing": 0.1}),
    "simpo": ("dpo", False, {"loss": "simpo", "beta": 2.0}),
    "orpo": ("dpo", False, {"loss": "orpo"}),
    # Cut into single rows: of the last step's three there is one too few for two processes, in each of its passes.
    "kto copy": ("dpo", False, {"loss": "kto", "reference": "copy", "micro_batch_tokens": 20}),
    "kto adapter_off": ("dpo", True, {"loss": "kto", "reference": "adapter_off"}),
    "grpo full": ("grpo", False, {"beta": 0.1}),
    "grpo lora": ("grpo", True, {"beta": 0.1}),
}


def make(name: str, folder: Path, processes: int, **more: Any) -> Any:
    """The trainer of a run. Its steps have the same eight rows (GRPO: four prompts), however many processes there are.

    The last step of an epoch has one row only: with two processes one of them has nothing to do.
    """
    method, lora, own = RUNS[name]
    shared = {"max_steps": 6, "eval_steps": 3, "save_steps": 3, "micro_batch_tokens": 100, "num_samples": 1}
    settings = {"batch_size": 8 // processes, **shared, **own, **more}
    if method == "sft":
        config = SFTConfig(**{**SHORT_RUN, "output_dir": str(folder), **settings})
        return SFTTrainer(small_model(lora), word_tokenizer(), random_rows(33), random_rows(9), config)
    if method == "reward":
        return small_reward_trainer(
            folder, model=small_reward_model(lora), train=random_groups(33), num_epochs=2, **settings
        )
    if method == "grpo":
        settings = {**settings, "batch_size": 4 // processes, "epochs_per_rollout": 2}
        return grpo_trainer(
            folder, lora=lora, prompt_dataset=letter_prompts(11), eval_dataset=letter_prompts(5, 9), **settings
        )
    rows = Pairs(19, sides=1) if own.get("loss") == "kto" else Pairs(17)
    return dpo_trainer(folder, small_model(lora), rows=rows, **settings)


# ---- what both processes do, in one start: starting them takes longer than the runs ----


def work(folder: Path, names: list[str]) -> None:
    """The runs `ddp/NAME` (whole weights), `fsdp/NAME` and `zero2/NAME` (sharded ones), and what else is named."""
    special: dict[str, Callable[[Path], None]] = {
        "stop": stop_one,
        "fail alone": fail_on_main,
        "resume": resume,
        "deepspeed resume": resume,
        "end": end_one,
    }
    for name in names:
        kind, _, run = name.partition("/")
        choose_sharding(kind)
        if kind in special:
            special[kind](folder / kind)
        else:
            trainer = make(run, folder / name, processes=2)
            assert trainer.processes == 2, trainer.processes  # `accelerate launch --cpu` would silently give one
            assert (sharding.of(trainer.model) is not None) == (kind in ("fsdp", "zero2"))
            assert isinstance(trainer.optimizer, ZeroOptimizer) == kind.startswith("deepspeed")
            trainer.train()
            if kind == "zero2":  # also where gathered weights were kept for a backward pass that did not come
                trainer.evaluate()
                assert all(hasattr(p, "full_tensor") for p in trainer.model.parameters())
        # In one write: two processes share this stream, and print sends the line and its end apart.
        os.write(1, f"done: {name}\n".encode())


def choose_sharding(kind: str) -> None:
    """As the launch files of configs/launch set it."""
    for name in (*SHARDED, *ZERO):
        os.environ.pop(name, None)
    if kind.startswith("deepspeed"):
        device = "cpu" if "offload" in kind else "none"
        os.environ.update(ZERO, ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE=device)
    if kind in ("fsdp", "zero2", "resume"):
        os.environ.update(SHARDED, FSDP_RESHARD_AFTER_FORWARD=str(kind != "zero2").lower())


def resume(folder: Path) -> None:
    """A run, and one that goes on from a copy of its checkpoint-3."""
    first = make("sft full", folder / "whole", processes=2)
    first.train()
    if first.is_main:
        shutil.copytree(folder / "whole" / "checkpoint-3", folder / "resumed" / "checkpoint-3")
    first.accelerator.wait_for_everyone()
    make("sft full", folder / "resumed", processes=2, resume=True).train()


def stop_one(folder: Path) -> None:
    """SIGTERM to one process, in step 2: both stop after it."""
    trainer = make("sft full", folder, processes=2)
    trainer.observe = lambda _: (
        os.kill(os.getpid(), signal.SIGTERM) if (trainer.rank, trainer.state.step) == (1, 2) else 0
    )
    try:
        trainer.train()
    except Interrupted:
        print(f"process {trainer.rank} stopped at {trainer.state.step}", flush=True)


def fail_on_main(folder: Path) -> None:
    """What fails on the main process alone fails on both."""
    trainer = make("sft full", folder, processes=2)

    def fail() -> None:
        raise OSError("the disk is full")

    try:
        trainer.on_main(fail)
    except (OSError, UserError) as error:
        print(f"process {trainer.rank} failed: {type(error).__name__}", flush=True)


def end_one(folder: Path) -> None:
    """An error in one process, in the midst of a step. Last of all: nothing runs after it."""
    trainer = make("sft full", folder, processes=2)
    compute_loss = trainer.compute_loss

    def fail(batch: Any) -> Any:
        if trainer.rank == 1 and trainer.state.step == 2:
            raise ValueError("planted error")
        return compute_loss(batch)

    trainer.compute_loss = fail
    try:
        trainer.train()
    except UserError as error:
        print(f"process {trainer.rank} says: {error}", flush=True)
        raise


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2:])
