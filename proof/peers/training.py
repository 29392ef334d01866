"""Whole TRL trainings beside ours: the same model, rows, order and settings, every step logged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from auto_bot_tuner.sft import SFTConfig, SFTTrainer
from auto_bot_tuner.training.batching import epoch_order
from tests.preference_runs import Pairs, dpo_trainer, word_tokenizer
from tests.reward_runs import Groups, random_groups, small_reward_model, small_reward_trainer
from tests.training_runs import SHORT_RUN, STOP, VOCABULARY, logged, random_rows, small_model, small_trainer

Log = list[dict[str, float]]
SETTINGS: dict[str, Any] = {"learning_rate": 1e-2, "weight_decay": 0.1, "max_grad_norm": 1.0}
STEADY: dict[str, Any] = {"warmup": 0, "lr_schedule": "constant"}
PAD = VOCABULARY - 1  # in no row of the reward models'


def small_tokenizer() -> PreTrainedTokenizerFast:
    """TRL writes the tokenizer's pad id into the model and pads with it, so it must be one of the 97 words."""
    words = {"<stop>": STOP} | {f"word{i}": i for i in range(1, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<stop>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<stop>", pad_token="<stop>")


def one_epoch(folder: Path, micro_batch: int) -> dict[str, Any]:
    """TRL's settings for steps of 8 rows in the given order, each of them logged and nothing saved."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "num_train_epochs": 1,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": 8 // micro_batch,
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def run(trainer: Any) -> Log:
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def steps(folder: Path) -> Log:
    """What our trainer wrote of each step."""
    return [line for line in logged(folder) if "loss" in line]


# ---- SFT ----


def our_sft(folder: Path, lora: bool = False) -> Log:
    settings: dict[str, Any] = {"batch_size": 8, "num_epochs": 1, **STEADY, **SETTINGS}
    small_trainer(folder, lora=lora, **settings).train()
    return steps(folder)


def trl_sft(folder: Path, micro_batch: int = 8, lora: bool = False) -> Log:
    """One epoch over the same rows, in the order in which our trainer takes them."""
    rows = random_rows()
    order = epoch_order(len(rows), seed=42, epoch=0)
    dataset = Dataset.from_list([{name: rows[i][name].tolist() for name in ("input_ids", "labels")} for i in order])
    config = trl.SFTConfig(**one_epoch(folder, micro_batch), **SETTINGS)
    model, tokenizer = small_model(lora), small_tokenizer()
    return run(trl.SFTTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer))


def first_losses(folder: Path, model: Callable[[], Any], rows: list[dict[str, torch.Tensor]]) -> tuple[float, float]:
    """The loss that TRL's trainer logs of its first step on these rows, and the one that ours does."""
    dataset = Dataset.from_list([{name: row[name].tolist() for name in ("input_ids", "labels")} for row in rows])
    config = trl.SFTConfig(**one_epoch(folder / "trl", 8), **SETTINGS)
    theirs = trl.SFTTrainer(model=model(), args=config, train_dataset=dataset, processing_class=small_tokenizer())
    settings: dict[str, Any] = {**SHORT_RUN, **SETTINGS, **STEADY, "output_dir": str(folder / "ours"), "max_steps": 1}
    SFTTrainer(model(), word_tokenizer(), rows, None, SFTConfig(**settings)).train()
    return run(theirs)[0]["loss"], steps(folder / "ours")[0]["loss"]


# ---- reward models ----


def our_reward(folder: Path, model: Any, groups: Groups, **settings: Any) -> Log:
    small_reward_trainer(folder, train=groups, model=model, **STEADY, **SETTINGS, **settings).train()
    return steps(folder)


def trl_reward(folder: Path, model: Any, groups: Groups, micro_batch: int = 8, **settings: Any) -> Log:
    """One epoch over the same pairs. A pad token of its own: with pad == eos TRL steps over the end token."""
    order = epoch_order(len(groups), seed=42, epoch=0)
    sides = [groups.group(i).input_ids for i in order]
    rows = [{"chosen_ids": chosen.tolist(), "rejected_ids": rejected.tolist()} for chosen, rejected in sides]
    if settings.pop("use_margin", False):
        gaps = [groups.group(i).scores for i in order]
        rows = [row | {"margin": better - worse} for row, (better, worse) in zip(rows, gaps, strict=True)]
    tokenizer = small_tokenizer()
    tokenizer.pad_token = f"word{PAD}"
    config = trl.RewardConfig(**one_epoch(folder, micro_batch), max_length=None, **SETTINGS, **settings)
    dataset = Dataset.from_list(rows)
    return run(trl.RewardTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer))


def both_rewards(folder: Path) -> tuple[Log, Log]:
    model, groups = small_reward_model(), random_groups(37, words=PAD)
    theirs = copy.deepcopy(model.model)  # head included
    return our_reward(folder / "ours", model, groups), trl_reward(folder / "trl", theirs, groups)


# ---- DPO and KTO ----


def as_text(ids: torch.Tensor) -> str:
    """' word5 word7<stop>'."""
    return "".join("<stop>" if token == STOP else f" word{token}" for token in ids.tolist())


def dpo_order() -> list[int]:
    """The rows of two epochs as our trainer takes them: 24 each, three steps of eight."""
    return [row for epoch in range(2) for row in epoch_order(24, seed=42, epoch=epoch)]


def our_dpo(folder: Path, policy: Any, rows: Any, **settings: Any) -> Log:
    dpo_trainer(folder, policy, rows=rows, **STEADY, **SETTINGS, **settings).train()
    return steps(folder)


def trl_dpo(folder: Path, policy: Any, reference: Any, micro_batch: int = 8, **settings: Any) -> Log:
    rows = Pairs(24)
    dataset = [
        {"prompt": as_text(rows.questions[i]), "chosen": as_text(chosen), "rejected": as_text(rejected)}
        for i in dpo_order()
        for chosen, rejected in [rows.answers[i]]
    ]
    config = trl.DPOConfig(**one_epoch(folder, micro_batch), **SETTINGS, **settings)
    data, tokenizer = Dataset.from_list(dataset), word_tokenizer()
    arguments: dict[str, Any] = {"args": config, "train_dataset": data, "processing_class": tokenizer}
    return run(trl.DPOTrainer(model=policy, ref_model=reference, **arguments))


def single_answers() -> Pairs:
    """Mostly good ones: answers in general get likelier, so that the reference point moves."""
    rows = Pairs(24, sides=1)
    rows.scores = [[float(row % 6 > 0)] for row in range(24)]
    return rows


def trl_kto(folder: Path, rows: Pairs, **settings: Any) -> Log:
    dataset = [
        {
            "prompt": as_text(rows.questions[i]),
            "completion": as_text(rows.answers[i][0]),
            "label": rows.scores[i][0] == 1,
        }
        for i in dpo_order()
    ]
    config = trl.KTOConfig(**one_epoch(folder, 8), **SETTINGS, **settings)
    data, tokenizer = Dataset.from_list(dataset), word_tokenizer()
    arguments: dict[str, Any] = {"args": config, "train_dataset": data, "processing_class": tokenizer}
    return run(trl.KTOTrainer(model=small_model(), ref_model=small_model(), **arguments))
