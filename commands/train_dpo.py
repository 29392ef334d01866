"""Direct preference optimisation as a recipe: pairs → model → dataset → trainer → train()."""

from __future__ import annotations

from dataclasses import field
from functools import partial

from pydantic.dataclasses import dataclass

from auto_bot_tuner.dpo.config import DPOConfig
from auto_bot_tuner.training.config import STRICT, TrainingConfig
from auto_bot_tuner.utils.run_config import RunConfig
from commands.layers import RunArguments, preset_layers
from commands.training import carry_out, config_writer, rows_of, run_recipe


@dataclass(config=STRICT, kw_only=True)
class Arguments(RunArguments):
    """Direct preference optimisation (DPO) and its family: of two answers, the better one becomes likelier."""

    # The settings of DPO.
    training: TrainingConfig = field(default_factory=DPOConfig)


def train(config: RunConfig, dry_run: bool = False) -> None:
    """The recipe. `train-config` and the demo come here too. Raises `UserError` with the cure."""
    train_rows, eval_rows = rows_of(config, dry_run)
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


layers, run = partial(preset_layers, Arguments), partial(run_recipe, train)
