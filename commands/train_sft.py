"""Supervised fine-tuning as a recipe: rows → model → dataset → trainer → train()."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.sft.config import SFTConfig
from auto_bot_tuner.training.config import STRICT, TrainingConfig
from auto_bot_tuner.utils.run_config import RunConfig
from commands.training import (
    RunArguments,
    carry_out,
    config_writer,
    preset_layers,
    refuse_preference_settings,
    say_preset,
)


@dataclass(config=STRICT, kw_only=True)
class Arguments(RunArguments):
    """Supervised fine-tuning (SFT): a base model learns to answer by imitating answers."""

    # Supervised fine-tuning, and nothing else here.
    method: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "sft"
    # The settings of SFT.
    training: TrainingConfig = field(default_factory=SFTConfig)


def layers(argv: Sequence[str]) -> Arguments | None:
    """The preset below the flags."""
    return preset_layers(Arguments, argv)


def run(arguments: Arguments) -> None:
    """Train, or with `--dry-run` show what would be trained."""
    say_preset(arguments)
    train(arguments, arguments.dry_run)


def train(config: RunConfig, dry_run: bool = False) -> None:
    """The recipe. `train-config` and the menu come here too.

    Raises:
        UserError: the data, the model or the run is at fault; the message says how to mend it.
    """
    from auto_bot_tuner.data.sources import load_rows  # the imports that take seconds wait for the first real work

    refuse_preference_settings(config.dataset)
    train_rows, eval_rows = load_rows(config.dataset)

    import torch

    from auto_bot_tuner.sft import InstructionDataset, SFTTrainer
    from auto_bot_tuner.utils.model_loading import load_from_config

    torch.manual_seed(config.training.seed)  # a new adapter starts at random: from here on the run is its seed's
    model, tokenizer, _ = load_from_config(config.model)

    data = config.dataset
    as_tokens = {
        "max_length": data.max_length,
        "format_type": data.format_type,
        "system_prompt": data.system_prompt,
        "train_on_prompt": data.train_on_prompt,
    }
    train_dataset = InstructionDataset(train_rows, tokenizer, **as_tokens)
    eval_dataset = InstructionDataset(eval_rows, tokenizer, **as_tokens) if eval_rows is not None else None
    trainer = SFTTrainer(model, tokenizer, train_dataset, eval_dataset, config.training, [config_writer(config)])
    carry_out(trainer, dry_run, "talk to it: python main.py chat {}")
