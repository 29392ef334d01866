"""Direct preference optimisation as a recipe: pairs → model → dataset → trainer → train()."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.dpo.config import DPOConfig
from auto_bot_tuner.training.config import STRICT, TrainingConfig
from auto_bot_tuner.utils.run_config import RunConfig
from commands.training import RunArguments, carry_out, config_writer, preset_layers, refuse_sft_settings, say_preset


@dataclass(config=STRICT, kw_only=True)
class Arguments(RunArguments):
    """Direct preference optimisation (DPO) and its family: of two answers, the better one becomes likelier."""

    # Direct preference optimisation, and nothing else here.
    method: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "dpo"
    # The settings of DPO.
    training: TrainingConfig = field(default_factory=DPOConfig)


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

    refuse_sft_settings(config.dataset, "DPO")
    train_rows, eval_rows = load_rows(config.dataset)
    training = config.training
    assert isinstance(training, DPOConfig)  # what the method of a run says

    import torch

    from auto_bot_tuner.dpo import DPOTrainer, PreferenceDataset
    from auto_bot_tuner.utils.model_loading import load_from_config

    torch.manual_seed(training.seed)
    model, tokenizer, _ = load_from_config(config.model)

    data = config.dataset
    as_tokens = {
        "max_length": data.max_length,
        "max_prompt_length": data.max_prompt_length or None,
        "unpaired": training.loss == "kto",  # single answers, good or bad
        "system_prompt": data.system_prompt,
    }
    train_dataset = PreferenceDataset(train_rows, tokenizer, **as_tokens)
    eval_dataset = PreferenceDataset(eval_rows, tokenizer, **as_tokens) if eval_rows is not None else None
    # None: the reference is had as `--reference` says, mostly without a second model.
    trainer = DPOTrainer(model, None, tokenizer, train_dataset, eval_dataset, training, [config_writer(config)])
    carry_out(trainer, dry_run, "talk to it: python main.py chat {}", ("loss", "accuracy"))
