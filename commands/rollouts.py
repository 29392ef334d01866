"""What the recipes of methods that learn from rollouts share: their rewards and their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from auto_bot_tuner.rewards.named import check_reward_names
from auto_bot_tuner.training.config import DatasetConfig
from auto_bot_tuner.utils.errors import UsageError, UserError

if TYPE_CHECKING:
    from auto_bot_tuner.data.rows import Rows
    from auto_bot_tuner.rewards import WeightedSum
    from auto_bot_tuner.rollouts.dataset import PromptDataset


def check_rewards(names: Sequence[str], reward_models: Sequence[str] = (), cure: str = "") -> None:
    """Before anything is loaded: something rewards, and every name of a reward is one.

    Raises:
        UsageError: neither is given (`cure` says what to give), or a name is unknown; the message has the near miss.
    """
    if not names and not reward_models:
        raise UsageError(f"nothing says what a response is worth: give {cure}")
    check_reward_names(names)


def prompts_of(rows: Rows, tokenizer: Any, data: DatasetConfig) -> PromptDataset:
    """The prompts of the rows; `max_length` is the longest one's."""
    from auto_bot_tuner.rollouts.dataset import PromptDataset

    return PromptDataset(rows, tokenizer, max_length=data.max_length, system_prompt=data.system_prompt)


def eval_prompts_of(rows: Rows | None, tokenizer: Any, data: DatasetConfig) -> PromptDataset | None:
    """Those of the evaluation rows, where there are any.

    Raises:
        UserError: none is left of them; the message says that it is these.
    """
    try:
        return None if rows is None else prompts_of(rows, tokenizer, data)
    except UserError as error:
        raise UserError(f"of the evaluation rows, {error}; or --eval-fraction 0") from error


def try_reward(reward: WeightedSum, prompts: PromptDataset) -> None:
    """Score a made-up answer to the first prompt: a reward that needs what the rows have not fails here, and at once.

    Raises:
        UserError: it does.
    """
    from auto_bot_tuner.rollouts.writing import attempts_of

    made_up = prompts.tokenizer("An answer.", add_special_tokens=False)["input_ids"]
    reward.score(attempts_of(prompts, [0], [made_up], [False]))


def describe_prompts(prompts: PromptDataset) -> str:
    """What was understood of the data, and prompt 0 as the model sees it."""
    text = prompts.tokenizer.decode(prompts[0]["input_ids"].tolist(), clean_up_tokenization_spaces=False)
    return f"{prompts.summary}\nprompt 0 as the model sees it ({prompts.where(0)}):\n{text}"
