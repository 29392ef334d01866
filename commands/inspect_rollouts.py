"""`inspect --method ppo|grpo`: what the policy writes and what it is worth, token by token.

Nothing is computed here: a trainer that never trains takes the steps of its first rollout, and its tensors are printed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.grpo.config import GRPOConfig
from auto_bot_tuner.rlhf.config import PPOConfig
from auto_bot_tuner.training.config import STRICT, ModelConfig
from auto_bot_tuner.utils.errors import UsageError
from commands.inspection import Inspection
from commands.rollouts import check_rewards, prompts_of
from commands.train_ppo import REWARD_CURE, check_folders, check_settings, reward_models, reward_of, value_network_of

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from rich.table import Table

    from auto_bot_tuner.rollouts import PromptDataset
    from auto_bot_tuner.rollouts.rollout import Rollout
    from auto_bot_tuner.rollouts.trainer import OnPolicyTrainer

FIRST = 1  # the number of a run's first rollout: with it its noise is that of training
LEGEND = (
    "log p: of the token, in nats · ref: the same under the reference · KL: log p - ref · token: ␣ is a blank, "
    "⏎ a line break, ∅ a part of a character"
)
OF_PPO = (
    "reward: -kl_coefficient x KL, at the last token plus the score · value: reward still expected before the token · "
    "advantage: how much better the token did than expected (GAE, not yet whitened)"
)
OF_GRPO = "advantage: score less the group's mean, in its standard deviations; the same for every token of a response"


@dataclass(config=STRICT, kw_only=True)
class RolloutSettings:
    """What the views of ppo and grpo need beside the rows."""

    # PPO, GRPO: what a response is worth, by verifiers (exact_match, gold …), file.py:function or reward model folders.
    reward: tuple[str, ...] = ()
    # PPO, GRPO: reward models, one folder each.
    reward_model: tuple[str, ...] = ()
    # PPO, GRPO: the model that the policy is compared with. Empty: PPO compares it with itself, as at the start of a
    # run, GRPO with nothing.
    reference: str = ""
    # PPO, GRPO: longest response in tokens.
    max_new_tokens: PositiveInt = PPOConfig.max_new_tokens
    # PPO: what the value network starts as. From the policy it says 0 everywhere.
    value_from: Literal["policy", "reward_model"] = "policy"
    # PPO: price of one nat of divergence from the reference.
    kl_coefficient: NonNegativeFloat = PPOConfig.kl_coefficient
    # GRPO: responses to one prompt.
    group_size: Annotated[int, Field(ge=2)] = GRPOConfig.group_size

    def for_ppo(self) -> PPOConfig:
        return PPOConfig(
            reward=self.reward,
            reward_model=self.reward_model,
            max_new_tokens=self.max_new_tokens,
            value_from=self.value_from,
            kl_coefficient=self.kl_coefficient,
            minibatches=1,  # no step is taken, and the rows may be few
            whiten_advantages=False,  # over the few tokens of one response the scale would mean nothing
            report_to=(),
        )

    def for_grpo(self) -> GRPOConfig:
        return GRPOConfig(
            reward=(*self.reward, *self.reward_model),
            max_new_tokens=self.max_new_tokens,
            group_size=self.group_size,
            # Any weight asks for the reference; this loss has its KL term apart from scores and advantages.
            beta=1.0 if self.reference else 0.0,
            report_to=(),
        )


def check_rollouts(settings: RolloutSettings, method: str) -> None:
    """What can be said of the settings before anything is read.

    Raises:
        UsageError: they are given for a method without rollouts, nothing rewards, or a reward's name is unknown.
        UserError: there is no such reward model.
    """
    if method not in ("ppo", "grpo"):
        if settings != RolloutSettings():
            raise UsageError(
                f"--method {method} writes no responses, and so reads no reward, reference or length of responses: "
                "leave them out, or say --method ppo or --method grpo"
            )
    elif method == "ppo":
        check_settings(settings.for_ppo())
    else:
        check_rewards(settings.for_grpo().reward, cure=REWARD_CURE)
    check_folders(settings.reward_model)


def show_rollouts(inspection: Inspection, settings: RolloutSettings, method: str, config: ModelConfig) -> None:
    """Let the policy answer the first prompts, and print what the trainer makes of its responses."""
    console, tokenizer = inspection.console, inspection.tokenizer
    dataset = prompts_of(inspection.train_rows, tokenizer, inspection.settings)
    shown = range(min(inspection.rows, len(dataset)))
    if shown:
        trainer = idle_trainer(inspection, settings, method, dataset, config)
        rollout, _ = trainer.write_and_score(dataset, shown, trainer.samples_per_prompt, FIRST)
        trainer.judge(rollout)
        console.print(LEGEND, style="dim", soft_wrap=True)
        console.print(OF_PPO if method == "ppo" else OF_GRPO, style="dim", soft_wrap=True)
        console.print(f"score: {trainer.reward.name}", style="dim", soft_wrap=True)
        for index in shown:
            print_prompt(console, dataset, index)
            print_responses(console, tokenizer, rollout, index)
        if rollout.values is not None and not bool(rollout.values.any()):
            words = "values are 0: a new value network knows nothing; --value-from reward_model begins with its guesses"
            console.print(words, soft_wrap=True)
    console.rule("all rows")
    console.print(str(dataset.summary), soft_wrap=True)


def idle_trainer(
    inspection: Inspection, settings: RolloutSettings, method: str, dataset: PromptDataset, config: ModelConfig
) -> OnPolicyTrainer:
    """The trainer of a run by these settings, at its start.

    Raises:
        UserError: a model cannot be had, or prompts leave the policy no room.
    """
    from auto_bot_tuner.grpo import GRPOTrainer
    from auto_bot_tuner.rewards import rewards_from_names
    from auto_bot_tuner.rlhf import PPOTrainer
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    policy, tokenizer, reference = inspection.model, inspection.tokenizer, None
    if settings.reference:
        trust = config.trust_remote_code
        reference, its_tokenizer, _ = load_model_and_tokenizer(
            settings.reference, frozen=True, use_lora=False, trust_remote_code=trust
        )
        if its_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise UsageError(f"--reference {settings.reference} reads other tokens than the policy writes")
    trainer: OnPolicyTrainer
    if method == "grpo":
        training = settings.for_grpo()
        reward = rewards_from_names(training.reward, config)
        trainer = GRPOTrainer(policy, reward, tokenizer, dataset, reference, None, training)
    else:
        of_ppo = settings.for_ppo()
        models = reward_models(of_ppo, config)
        value_network = value_network_of(of_ppo, policy, tokenizer, models)
        reward = reward_of(of_ppo, models, config)
        trainer = PPOTrainer(policy, value_network, reward, reference, tokenizer, dataset, None, of_ppo)
    trainer.check_data()
    return trainer


# --- what is shown ----------------------------------------------------------------------------------------------------


def print_prompt(console: Console, dataset: PromptDataset, index: int) -> None:
    from auto_bot_tuner.utils.terminal import neutral

    ids = dataset[index]["input_ids"].tolist()
    console.rule(f"prompt {index}")
    console.print(f"{dataset.where(index)}: prompt {len(ids)} tokens", style="bold", soft_wrap=True)
    text = dataset.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    console.print(neutral(text), style="dim", soft_wrap=True, end="" if text.endswith("\n") else "\n")


def print_responses(console: Console, tokenizer: Any, rollout: Rollout, index: int) -> None:
    """The responses to prompt `index`: of a group all in a table, then the tokens of the one with most to teach."""
    group = range(index * rollout.samples, (index + 1) * rollout.samples)
    chosen = group[0]
    if rollout.samples > 1:
        assert rollout.advantages is not None
        of_responses = rollout.advantages[:, 0].abs().tolist()
        console.print(group_table(rollout, group))
        chosen = max(group, key=of_responses.__getitem__)
    console.print(heading(rollout, chosen, chosen - group[0]), style="bold", soft_wrap=True)
    console.print(token_table(tokenizer, rollout, chosen))


def heading(rollout: Rollout, row: int, sample: int) -> str:
    """Length, end and score of a response."""
    assert rollout.raw_scores is not None
    raw, score = float(rollout.raw_scores[row]), float(rollout.scores[row])
    told = [f"{name} {float(found[row]):.3f}" for name, found in rollout.components.items()]
    parts = f" ({', '.join(told)})" if len(told) > 1 else ""
    used = "" if raw == score else f", used as {score:.3f} (clipped, or penalised for its end)"
    ended = "ended" if rollout.ended[row] else "cut off"
    return f"response {sample}: {int(rollout.lengths[row])} tokens, {ended}, score {raw:.3f}{parts}{used}"


def group_table(rollout: Rollout, group: range) -> Table:
    from rich.table import Table

    from auto_bot_tuner.utils.terminal import neutral

    assert rollout.advantages is not None
    table = Table("", box=None, header_style="bold", expand=True)
    for column in ("score", "advantage", "tokens"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("response (■ ended)", no_wrap=True, overflow="ellipsis", ratio=1)  # what the numbers leave
    for row in group:
        advantage = float(rollout.advantages[row, 0])
        text = neutral(rollout.attempts[row].response).replace("\n", "⏎") + " ■" * bool(rollout.ended[row])
        cells = (f"{float(rollout.scores[row]):.3f}", f"{advantage:+.3f}", f"{int(rollout.lengths[row])}", text)
        table.add_row(str(row - group[0]), *cells, style=colour(advantage))
    return table


def token_table(tokenizer: Any, rollout: Rollout, row: int) -> Table:
    """A line for each token of a response, with whatever the method has computed of it, and their sums."""
    from rich.table import Table
    from rich.text import Text

    length = int(rollout.lengths[row])
    columns: dict[str, torch.Tensor] = {"log p": rollout.logprobs[row, :length]}
    if rollout.reference_logprobs is not None:
        columns["ref"] = rollout.reference_logprobs[row, :length]
        columns["KL"] = columns["log p"] - columns["ref"]
    found = {"reward": rollout.rewards, "value": rollout.values, "advantage": rollout.advantages}
    columns |= {name: per_token[row, :length] for name, per_token in found.items() if per_token is not None}
    table = Table("", "token", box=None, header_style="bold", show_footer=True)
    table.columns[1].footer = "sum"
    for name, per_token in columns.items():
        is_sum = name in ("log p", "ref", "KL", "reward")
        table.add_column(name, justify="right", footer=f"{float(per_token.sum()):+.3f}" if is_sum else "")
    advantages = columns["advantage"].tolist()
    rows = zip(response_tokens(tokenizer, rollout, row), *(x.tolist() for x in columns.values()), strict=True)
    for place, (text, *numbers) in enumerate(rows):
        cells = (f"{number:+.3f}" for number in numbers)
        table.add_row(str(place), Text(text), *cells, style=colour(advantages[place]))
    return table


def response_tokens(tokenizer: Any, rollout: Rollout, row: int) -> list[str]:
    """What each token of a response adds to the text, with blanks that can be seen."""
    from auto_bot_tuner.data.viewer import token_texts
    from auto_bot_tuner.utils.terminal import neutral

    attempt = rollout.attempts[row]
    texts = token_texts(tokenizer, attempt.prompt_ids + attempt.response_ids)[len(attempt.prompt_ids) :]
    return [neutral(text).replace(" ", "␣").replace("\n", "⏎") or "∅" for text in texts]


def colour(advantage: float) -> str:
    """Says again what the sign says: made likelier, or less likely."""
    return "green" if advantage > 0 else "red" if advantage < 0 else ""
