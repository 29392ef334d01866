"""Supervised fine-tuning as a recipe: rows → model → dataset → trainer → train()."""

from __future__ import annotations

from dataclasses import field
from functools import partial

from pydantic.dataclasses import dataclass

from auto_bot_tuner.sft.config import SFTConfig
from auto_bot_tuner.training.config import STRICT, TrainingConfig
from auto_bot_tuner.utils.run_config import RunConfig
from commands.layers import RunArguments, preset_layers
from commands.training import carry_out, config_writer, rows_of, run_recipe


@dataclass(config=STRICT, kw_only=True)
class Arguments(RunArguments):
    """Supervised fine-tuning (SFT): a base model learns to answer by imitating answers."""

    # The settings of SFT.
    training: TrainingConfig = field(default_factory=SFTConfig)


def train(config: RunConfig, dry_run: bool = False) -> None:
    """The recipe. `train-config` and the demo come here too. Raises `UserError` with the cure."""
    train_rows, eval_rows = rows_of(config, dry_run)

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


layers, run = partial(preset_layers, Arguments), partial(run_recipe, train)
