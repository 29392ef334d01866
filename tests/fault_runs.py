"""A short run of every method, with all that it carries from step to step switched on: what the fault harness kills."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from auto_bot_tuner.sft import InstructionDataset, SFTConfig, SFTTrainer
from auto_bot_tuner.sft.best_of import best_of_rows
from tests.models import tiny_model
from tests.preference_runs import dpo_trainer
from tests.reward_runs import EOS, byte_tokenizer, small_reward_trainer
from tests.rl_runs import (
    LETTERS,
    early_letters,
    grpo_trainer,
    imitation_rows,
    letter_model,
    letter_prompts,
    letter_tokenizer,
    ppo_trainer,
)

# Steps, logs, evaluations and saves at different rhythms, so that a kill falls between any two of them; a checkpoint
# at the last step, which is compared bit by bit. Two checkpoints and the best one are kept, so that others are deleted.
RHYTHM: dict[str, Any] = {
    "logging_steps": 3,
    "eval_steps": 4,
    "save_steps": 2,
    "save_total_limit": 2,
    "keep_best": True,
    "lr_schedule": "linear",
    "num_samples": 2,
    "sample_max_new_tokens": 6,
    "report_to": (),
}
OF_TEXT: dict[str, Any] = {**RHYTHM, "learning_rate": 1e-2, "batch_size": 4, "max_steps": 8, "num_epochs": 9}
OF_ROLLOUTS: dict[str, Any] = {
    **RHYTHM,
    "keep_best": False,
    "num_epochs": 1.0,
    "minibatches": 2,
    "epochs_per_rollout": 2,
}


@cache
def tokenizer() -> Any:
    return byte_tokenizer()


def byte_model(lora: bool = False) -> Any:
    ends = {"vocab_size": EOS + 1, "bos_token_id": EOS, "eos_token_id": EOS}
    model: Any = tiny_model("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ends)
    if not lora:
        return model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"], lora_dropout=0.3, fan_in_fan_out=True))


def questions(count: int, start: int = 0) -> list[dict[str, str]]:
    numbers = range(start, start + count)
    return [{"instruction": f"{i} + {i % 7}?", "input": "", "output": f"{i + i % 7}" + "!" * (i % 5)} for i in numbers]


# Two of the methods draw their report and the curves of their card.
DRAWN = {"report_to": ("html",)}


def sft(folder: Path, lora: bool = False, **settings: Any) -> SFTTrainer:
    """Noise in the embeddings or in the adapter: randomness that a resumed run must find again."""
    noise = {} if lora else {"neftune_alpha": 5.0}
    config = SFTConfig(**{"output_dir": str(folder), **OF_TEXT, **noise, **settings})
    train, held_out = (InstructionDataset(questions(*span), tokenizer(), 64) for span in ((19,), (4, 30)))
    return SFTTrainer(byte_model(lora), tokenizer(), train, held_out, config)


@cache
def best_answers() -> Any:
    """Rows that the model itself wrote, the best of four; a resumed command writes the same ones again."""
    config = SFTConfig(from_best_of=4, reward=("ended",), best_of_max_new_tokens=20, best_of_temperature=1.0)
    prompts = [{"prompt": LETTERS[i : i + 5]} for i in range(20)]
    return best_of_rows(letter_model(), letter_tokenizer(), prompts, config, 64, reward=early_letters)[0]


def best_of(folder: Path, **settings: Any) -> SFTTrainer:
    rows = InstructionDataset(best_answers(), letter_tokenizer(), 64, "chat")
    config = SFTConfig(**{"output_dir": str(folder), **OF_TEXT, **settings})
    return SFTTrainer(letter_model(), letter_tokenizer(), rows, rows, config)


def ppo(folder: Path, **settings: Any) -> Any:
    """A price that moves, a running deviation, rollouts left early, rows to imitate."""
    carried = {"kl_target": 1.0, "kl_horizon": 50, "scale_rewards": True, "early_stop_kl": 2e-3}
    carried |= {"missing_eos_penalty": 0.5, "eval_dataset": letter_prompts(5, 9), "imitated": imitation_rows()}
    return ppo_trainer(folder, **{**OF_ROLLOUTS, **carried, **settings})


def grpo(folder: Path, **settings: Any) -> Any:
    carried = {"beta": 0.05, "loss": "dapo", "eval_dataset": letter_prompts(5, 9)}
    return grpo_trainer(folder, **{**OF_ROLLOUTS, **carried, **settings})


METHODS: dict[str, Callable[..., Any]] = {
    "sft-full": lambda folder, **settings: sft(folder, **DRAWN, **settings),
    "sft-lora": lambda folder, **settings: sft(folder, lora=True, **settings),
    "sft-best-of": best_of,
    "reward": lambda folder, **settings: small_reward_trainer(folder, **{**OF_TEXT, **settings}),
    "dpo": lambda folder, **settings: dpo_trainer(folder, **{**OF_TEXT, "learning_rate": 1e-4, **settings}),
    "kto": lambda folder, **settings: dpo_trainer(folder, **{**OF_TEXT, "loss": "kto", **settings}),
    "ppo": lambda folder, **settings: ppo(folder, **DRAWN, **settings),
    "ppo-lora": lambda folder, **settings: ppo(folder, lora=True, **settings),
    "grpo": grpo,
}
