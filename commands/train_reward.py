"""Reward modelling as a recipe: pairs → reward model → dataset → trainer → train()."""

from __future__ import annotations

from dataclasses import field
from functools import partial

from pydantic.dataclasses import dataclass

from auto_bot_tuner.rlhf.config import RewardModelConfig
from auto_bot_tuner.training.config import STRICT, TrainingConfig
from auto_bot_tuner.utils.run_config import RunConfig
from commands.layers import RunArguments, preset_layers
from commands.training import carry_out, config_writer, rows_of, run_recipe


@dataclass(config=STRICT, kw_only=True)
class Arguments(RunArguments):
    """Reward modelling: a model learns to score answers as the people did who compared them."""

    # The settings of reward modelling.
    training: TrainingConfig = field(default_factory=RewardModelConfig)


def train(config: RunConfig, dry_run: bool = False) -> None:
    """The recipe. `train-config` and the demo come here too. Raises `UserError` with the cure."""
    train_rows, eval_rows = rows_of(config, dry_run)
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


layers, run = partial(preset_layers, Arguments), partial(run_recipe, train)
