"""Supervised fine-tuning as a recipe: rows → model → dataset → trainer → train()."""

from __future__ import annotations

from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

from auto_bot_tuner.rewards.named import check_reward_names
from auto_bot_tuner.sft.config import SFTConfig
from auto_bot_tuner.training.config import STRICT, TrainingConfig
from auto_bot_tuner.utils.run_config import RunConfig
from commands.layers import RunArguments, preset_layers
from commands.training import carry_out, config_writer, rows_of, run_recipe, say

if TYPE_CHECKING:
    from auto_bot_tuner.data.rows import Rows
    from auto_bot_tuner.sft import InstructionDataset

DRY_RUN_PROMPTS = 8  # of rejection sampling: enough to see whether the reward prefers anything


@dataclass(config=STRICT, kw_only=True)
class Arguments(RunArguments):
    """Supervised fine-tuning (SFT): a base model learns to answer by imitating answers."""

    # The settings of SFT.
    training: TrainingConfig = field(default_factory=SFTConfig)


def train(config: RunConfig, dry_run: bool = False) -> None:
    """The recipe. `train-config` and the demo come here too. Raises `UserError` with the cure."""
    training, data = config.training, config.dataset
    assert isinstance(training, SFTConfig)  # what the method of a run says
    check_reward_names(training.reward)
    train_rows, eval_rows = rows_of(config, dry_run)

    import torch

    from auto_bot_tuner.sft import InstructionDataset, SFTTrainer
    from auto_bot_tuner.utils.model_loading import load_from_config

    torch.manual_seed(training.seed)  # a new adapter starts at random: from here on the run is its seed's
    model, tokenizer, _ = load_from_config(config.model)

    as_tokens = {
        "max_length": data.max_length,
        "format_type": data.format_type,
        "system_prompt": data.system_prompt,
        "train_on_prompt": data.train_on_prompt,
    }
    if training.from_best_of:
        asked = train_rows.select(range(min(DRY_RUN_PROMPTS, len(train_rows)))) if dry_run else train_rows
        train_dataset = own_best_answers(model, tokenizer, asked, config)
    else:
        train_dataset = InstructionDataset(train_rows, tokenizer, **as_tokens)
    eval_dataset = None
    if eval_rows is not None and (not training.from_best_of or are_answered(eval_rows)):
        eval_dataset = InstructionDataset(eval_rows, tokenizer, **as_tokens)
    trainer = SFTTrainer(model, tokenizer, train_dataset, eval_dataset, training, [config_writer(config)])
    carry_out(trainer, dry_run, "talk to it: python main.py chat {}")


def own_best_answers(model: Any, tokenizer: Any, rows: Rows, config: RunConfig) -> InstructionDataset:
    """Rejection sampling: the best of the model's own answers, to imitate instead of the data's; what came is said."""
    from auto_bot_tuner.rewards import rewards_from_names
    from auto_bot_tuner.sft import InstructionDataset
    from auto_bot_tuner.sft.best_of import best_of_rows

    training, data = config.training, config.dataset
    assert isinstance(training, SFTConfig)
    reward = rewards_from_names(training.reward, config.model)
    chats, summary = best_of_rows(model, tokenizer, rows, training, data.max_length, data.system_prompt, reward)
    say(str(summary))
    return InstructionDataset(chats, tokenizer, data.max_length, "chat", train_on_prompt=data.train_on_prompt)


def are_answered(rows: Rows) -> bool:
    """Whether held-out rows hold answers to measure a loss on, as they are.

    Prompts alone do not. Answers of the model itself would make an evaluation of how sure it is of itself, and where
    it finds none worth keeping the run would end for that: prompts alone are then not evaluated on, and it is said.
    """
    from auto_bot_tuner.data.formats import recognise

    answered = all(isinstance(row, dict) and recognise(row) for row in rows[:])
    if not answered:
        say("evaluation  none: the held-out rows hold no answers to compare with")
    return answered


layers, run = partial(preset_layers, Arguments), partial(run_recipe, train)
