"""PPO as a recipe: rewards → policy → value network → prompts → trainer → train()."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

from auto_bot_tuner.assets import BUNDLED_MODELS
from auto_bot_tuner.rlhf.config import PPOConfig
from auto_bot_tuner.training.config import STRICT, DatasetConfig, ModelConfig, TrainingConfig
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.run_config import RunConfig
from commands.layers import RunArguments, preset_layers
from commands.rollouts import check_rewards, describe_prompts, eval_prompts_of, prompts_of, try_reward
from commands.training import carry_out, config_writer, rows_of, run_recipe, say

if TYPE_CHECKING:
    from auto_bot_tuner.rewards import ModelReward, WeightedSum
    from auto_bot_tuner.rlhf import RewardModel, ValueNetwork

REWARD_CURE = (
    "--reward-model with a folder (train one with: python main.py train-reward), or --reward with a verifier such as "
    "exact_match"
)


@dataclass(config=STRICT, kw_only=True)
class Arguments(RunArguments):
    """PPO: the policy answers, a reward model scores the answers, and better ones than expected become likelier."""

    # The settings of PPO.
    training: TrainingConfig = field(default_factory=PPOConfig)


def train(config: RunConfig, dry_run: bool = False) -> None:
    """The recipe. `train-config` and the demo come here too. Raises `UserError` with the cure."""
    training, data = config.training, config.dataset
    assert isinstance(training, PPOConfig)  # what the method of a run says
    check_settings(training)
    check_folders(training.reward_model)
    train_rows, eval_rows = rows_of(config, dry_run)
    sft_rows = imitated_rows(training)

    import torch

    from auto_bot_tuner.rlhf import PPOTrainer, share_backbone
    from auto_bot_tuner.sft import InstructionDataset
    from auto_bot_tuner.utils.model_loading import load_from_config

    models = reward_models(training, config.model)
    reward = reward_of(training, models, config.model)
    torch.manual_seed(training.seed)
    policy, tokenizer, _ = load_from_config(config.model)
    value_network = value_network_of(training, policy, tokenizer, models)
    if training.share_backbone:
        scoring = [source.reward_model for _, source in reward.parts if hasattr(source, "reward_model")]
        say_shared(share_backbone(policy, value_network, *scoring))

    prompts = prompts_of(train_rows, tokenizer, data)
    try_reward(reward, prompts)
    eval_prompts = eval_prompts_of(eval_rows, tokenizer, data)
    longest = data.max_length + training.max_new_tokens  # what the policy reads and writes in this run
    sft_dataset = InstructionDataset(sft_rows, tokenizer, longest, "auto") if sft_rows is not None else None
    trainer = PPOTrainer(
        policy,
        value_network,
        reward,
        None,  # the reference is had as `--reference` says, with LoRA without a second model
        tokenizer,
        prompts,
        eval_prompts,
        training,
        [config_writer(config)],
        sft_dataset=sft_dataset,
    )
    use = "talk to it: python main.py chat {}"
    carry_out(trainer, dry_run, use, ("reward", "kl"), describe_prompts(prompts))


def check_settings(training: PPOConfig) -> None:
    """What can be said of the rewards before anything is read.

    Raises:
        UsageError: there is none, a name is unknown, or value_from has not the one reward model to start from.
    """
    check_rewards(training.reward, training.reward_model, REWARD_CURE)
    if training.sft_weight and not training.sft_dataset:
        raise UsageError("sft_dataset and sft_weight go together: name the data set, or leave the weight out")
    if training.value_from == "reward_model" and len(training.reward_model) != 1:
        raise UsageError(
            f"value_from reward_model starts from the one --reward-model, and {len(training.reward_model)} are given: "
            "set --value-from policy"
        )


def check_folders(names: Sequence[str]) -> None:
    """A reward model that is not there is found before the policy is loaded. (ORGANISATION/NAME may be on the hub.)

    Raises:
        UserError: there is no such folder.
    """
    for name in names:
        if not expanded(name).is_dir() and name not in BUNDLED_MODELS and name.strip("./~").count("/") != 1:
            raise UserError(
                f"--reward-model {name}: no such folder (looked from {Path.cwd()}); name another with --reward-model, "
                "or train one with: python main.py train-reward"
            )


def imitated_rows(training: PPOConfig) -> Any:
    """The rows to imitate beside PPO, or None."""
    from auto_bot_tuner.data.sources import load_rows

    if not training.sft_dataset:
        return None
    return load_rows(DatasetConfig(name=training.sft_dataset, eval_fraction=0))[0]


def reward_models(training: PPOConfig, model: ModelConfig) -> list[tuple[RewardModel, Any]]:
    """(reward model, its tokenizer) of each folder, frozen, in the type of the policy's own frozen weights.

    Raises:
        UserError: a folder holds no reward model.
    """
    from auto_bot_tuner.rlhf import load_reward_model

    loaded = []
    for name in training.reward_model:
        try:
            folder = adapter_on_same_base(name, model) if training.share_backbone else name
            reward_model, tokenizer, _ = load_reward_model(folder, model.device, model.dtype, model.trust_remote_code)
        except UserError as error:
            raise type(error)(f"--reward-model {name}: {error}") from error
        loaded.append((reward_model, tokenizer))
    return loaded


def adapter_on_same_base(name: str, model: ModelConfig) -> str:
    """The adapter of a reward model, where it lies beside the merged weights and its base is the policy's; else `name`.

    Merged, a LoRA run's weights are its own; as an adapter it needs no base beside the one that the policy holds.
    """
    from auto_bot_tuner.utils.model_source import ModelSource, find_base, find_model

    policy = find_model(model.name, model.trust_remote_code)
    path = find_model(name, model.trust_remote_code).path / "adapter"
    adapter = ModelSource(str(path), path)
    if not adapter.is_adapter or not (model.use_lora or policy.is_adapter):
        return name
    try:
        base = find_base(adapter, model.trust_remote_code)
    except UserError:  # moved since; the merged weights do without it
        return name
    own = find_base(policy, model.trust_remote_code) if policy.is_adapter else policy
    if base.path.resolve() != own.path.resolve():
        return name
    say(f"reward model     {path}: an adapter on the policy's own base, which is held once")
    return str(path)


def reward_of(training: PPOConfig, models: list[tuple[RewardModel, Any]], run: ModelConfig) -> WeightedSum:
    """The reward models' score, alone or as an ensemble, and the named rewards beside it.

    Raises:
        UsageError: the reward models do not read the same tokens.
        UserError: a named reward cannot be had.
    """
    from auto_bot_tuner.rewards import WeightedSum, reward_from_name

    learned = [(1.0, learned_reward(training, models))] if models else []
    return WeightedSum([*learned, *(reward_from_name(name, run) for name in training.reward)])


def learned_reward(training: PPOConfig, models: list[tuple[RewardModel, Any]]) -> ModelReward:
    """The reward models as one reward source."""
    from auto_bot_tuner.rewards import ModelReward
    from auto_bot_tuner.rlhf import RewardEnsemble

    reward_model, tokenizer = models[0]
    if len(models) == 1:
        return ModelReward(reward_model, tokenizer)
    if any(other.get_vocab() != tokenizer.get_vocab() for _, other in models):
        raise UsageError("the reward models have different tokenizers: give one of them by --reward instead")
    return ModelReward(RewardEnsemble([model for model, _ in models], training.reward_ensemble), tokenizer)


def value_network_of(
    training: PPOConfig, policy: Any, tokenizer: Any, models: list[tuple[RewardModel, Any]]
) -> ValueNetwork:
    """The value network as `value_from` says.

    Raises:
        UsageError: the reward model that it would start from reads other tokens than the policy writes.
    """
    from auto_bot_tuner.rlhf import create_value_network_from_policy, create_value_network_from_reward_model

    if training.value_from == "policy":
        return create_value_network_from_policy(policy)
    reward_model, its_tokenizer = models[0]
    if its_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise UsageError("the reward model's tokenizer is not the policy's: set --value-from policy")
    return create_value_network_from_reward_model(reward_model)


def say_shared(freed: int) -> None:
    if freed >= 2**20:
        say(f"shared backbone  frozen weights that are equal are held once, which saves {freed / 2**20:,.0f} MiB")


layers, run = partial(preset_layers, Arguments), partial(run_recipe, train)
