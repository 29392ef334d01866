"""Reward modelling as a recipe: pairs → reward model → dataset → trainer → train()."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.rlhf.config import RewardModelConfig
from auto_bot_tuner.training.config import STRICT, TrainingConfig
from auto_bot_tuner.utils.run_config import RunConfig
from commands.training import RunArguments, carry_out, config_writer, preset_layers, refuse_sft_settings, say_preset


@dataclass(config=STRICT, kw_only=True)
class Arguments(RunArguments):
    """Reward modelling: a model learns to score answers as the people did who compared them."""

    # Reward modelling, and nothing else here.
    method: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "reward"
    # The settings of reward modelling.
    training: TrainingConfig = field(default_factory=RewardModelConfig)


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
    from auto_bot_tuner.data.sources import load_rows

    refuse_sft_settings(config.dataset, "reward models")
    train_rows, eval_rows = load_rows(config.dataset)
    training = config.training
    assert isinstance(training, RewardModelConfig)  # what the method of a run says

    import torch

    from auto_bot_tuner.rlhf import RewardModelDataset, RewardModelTrainer
    from auto_bot_tuner.rlhf.reward_model import reward_model_from_config

    torch.manual_seed(training.seed)  # the score head starts at random
    model, tokenizer, _ = reward_model_from_config(config.model, frozen_base=training.frozen_base)

    data = config.dataset
    as_tokens = {
        "max_length": data.max_length,
        "max_prompt_length": data.max_prompt_length or None,
        "kind": training.objective,
        "system_prompt": data.system_prompt,
    }
    train_dataset = RewardModelDataset(train_rows, tokenizer, **as_tokens)
    eval_dataset = RewardModelDataset(eval_rows, tokenizer, **as_tokens) if eval_rows is not None else None
    trainer = RewardModelTrainer(model, tokenizer, train_dataset, eval_dataset, training, [config_writer(config)])
    carry_out(
        trainer, dry_run, "look at its report card: python main.py evaluate reward --model {}", ("loss", "accuracy")
    )
