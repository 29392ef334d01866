"""GRPO and its relatives as a recipe: rewards → policy → prompts → trainer → train()."""

from __future__ import annotations

from dataclasses import field
from functools import partial

from pydantic.dataclasses import dataclass

from auto_bot_tuner.grpo.config import GRPOConfig
from auto_bot_tuner.training.config import STRICT, TrainingConfig
from auto_bot_tuner.utils.run_config import RunConfig
from commands.layers import RunArguments, preset_layers
from commands.rollouts import check_rewards, describe_prompts, eval_prompts_of, prompts_of, try_reward
from commands.training import carry_out, config_writer, rows_of, run_recipe


@dataclass(config=STRICT, kw_only=True)
class Arguments(RunArguments):
    """GRPO and its relatives: of several responses to one prompt, those with the higher reward become likelier."""

    # The settings of GRPO.
    training: TrainingConfig = field(default_factory=GRPOConfig)


def train(config: RunConfig, dry_run: bool = False) -> None:
    """The recipe. `train-config` and the demo come here too. Raises `UserError` with the cure."""
    training = config.training
    assert isinstance(training, GRPOConfig)  # what the method of a run says
    check_rewards(training.reward, cure="--reward, such as --reward exact_match for rows with an answer")
    train_rows, eval_rows = rows_of(config, dry_run)

    import torch

    from auto_bot_tuner.grpo import GRPOTrainer
    from auto_bot_tuner.rewards import rewards_from_names
    from auto_bot_tuner.utils.model_loading import load_from_config

    reward = rewards_from_names(training.reward, config.model)
    torch.manual_seed(training.seed)
    policy, tokenizer, _ = load_from_config(config.model)

    prompts = prompts_of(train_rows, tokenizer, config.dataset)
    try_reward(reward, prompts)
    eval_prompts = eval_prompts_of(eval_rows, tokenizer, config.dataset)
    # None: the reference, where beta asks for one, is had as `--reference` says.
    trainer = GRPOTrainer(policy, reward, tokenizer, prompts, None, eval_prompts, training, [config_writer(config)])
    carry_out(trainer, dry_run, "talk to it: python main.py chat {}", ("reward",), describe_prompts(prompts))


layers, run = partial(preset_layers, Arguments), partial(run_recipe, train)
