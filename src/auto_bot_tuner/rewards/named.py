"""`0.2*length:64` → (0.2, reward source): the names that the command line, YAML files and Python code use.

    [WEIGHT*]NAME    NAME is a verifier (`verifiers.py`), file.py:function, or the folder of a reward model

Heavy imports stand inside functions, so that `check_reward_names` can refuse a name before anything is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auto_bot_tuner.rewards.source import RewardSource
from auto_bot_tuner.rewards.verifiers import EXAMPLES, NAMES, verifier
from auto_bot_tuner.training.config import ModelConfig
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.settings import nearest

if TYPE_CHECKING:
    from auto_bot_tuner.rewards.weighted_sum import WeightedSum

WEIGHTED = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*\*\s*(.*\S)\s*", re.DOTALL)
IS_FUNCTION = re.compile(r"\.py(:[^:/\\]*)?$")


def check_reward_names(names: Iterable[str]) -> None:
    """Every name is one that could be had; nothing is loaded, no file of the user's is run.

    Raises:
        UsageError: one is not; the message says which, why, and what there is.
    """
    for name in names:
        bare = weight_and_name(name)[1]
        if is_verifier(bare):
            verifier(bare)
        elif IS_FUNCTION.search(bare):
            check_function_name(bare)
        elif not is_model_name(bare):
            raise unknown(bare)


def reward_from_name(name: str, run: ModelConfig | None = None) -> tuple[float, RewardSource]:
    """(weight, source) of one name; a reward model is loaded, frozen.

    Args:
        run: the model of the run, whose `device`, `dtype` of frozen weights and `trust_remote_code` count for a reward
            model too.

    Raises:
        UsageError: there is no such reward, or its argument is wrong.
        UserError: a file or a folder that cannot be used; the message says what to do.
    """
    check_reward_names([name])
    weight, bare = weight_and_name(name)
    if is_verifier(bare):
        return weight, verifier(bare)
    if IS_FUNCTION.search(bare):
        from auto_bot_tuner.rewards.functions import reward_of_file

        return weight, reward_of_file(bare)
    from auto_bot_tuner.rewards.models import ModelReward
    from auto_bot_tuner.rlhf.reward_model import load_reward_model

    run = run or ModelConfig()
    try:
        reward_model, tokenizer, _ = load_reward_model(bare, run.device, run.dtype, run.trust_remote_code)
    except UserError as error:
        raise type(error)(f"--reward {bare}: {error}") from error
    return weight, ModelReward(reward_model, tokenizer, name=bare)


def rewards_from_names(names: Sequence[str], run: ModelConfig | None = None) -> WeightedSum:
    """All names of a config as one reward; `run` as in `reward_from_name`.

    Raises:
        UsageError: as `reward_from_name`, or there is no name.
    """
    from auto_bot_tuner.rewards.weighted_sum import WeightedSum

    check_reward_names(names)  # all of them, before the first model is loaded
    return WeightedSum([reward_from_name(name, run) for name in names])


def as_reward(reward: Any, tokenizer: Any) -> WeightedSum:
    """Whatever a trainer is given to reward with, as one weighted sum.

    Args:
        reward: a `RewardModel` or `RewardEnsemble`, a reward source, a function (prompt, response) or (prompt,
            response, row) → number, a name as in `reward_from_name`, a sequence of these, or a `WeightedSum`.
        tokenizer: the policy's. A bare reward model is taken to read the same; for one that has its own give
            `ModelReward(reward_model, its_tokenizer)`.

    Raises:
        UsageError: it is none of these, or a bare reward model has another vocabulary.
    """
    from auto_bot_tuner.rewards.weighted_sum import WeightedSum

    if isinstance(reward, WeightedSum):
        return reward
    if isinstance(reward, (list, tuple)):
        return WeightedSum([part for each in reward for part in as_reward(each, tokenizer).parts])
    if isinstance(reward, str):
        return WeightedSum([reward_from_name(reward)])
    return WeightedSum([(1.0, as_source(reward, tokenizer))])


def as_source(reward: Any, tokenizer: Any) -> RewardSource:
    from auto_bot_tuner.rewards.functions import reward_of_function
    from auto_bot_tuner.rewards.models import ModelReward
    from auto_bot_tuner.rlhf.ensemble import RewardEnsemble
    from auto_bot_tuner.rlhf.reward_model import RewardModel

    if isinstance(reward, (RewardModel, RewardEnsemble)):
        check_same_vocabulary(reward, tokenizer)
        return ModelReward(reward, tokenizer)
    if callable(reward) and isinstance(getattr(reward, "name", None), str):
        source: RewardSource = reward
        return source
    if callable(reward):
        function: Callable[..., Any] = reward
        return reward_of_function(function)
    raise UsageError(
        f"a {type(reward).__name__} is no reward: give a reward model, a function (prompt, response) that returns a "
        f"number, or a name such as {EXAMPLES[0]}"
    )


def check_same_vocabulary(reward_model: Any, tokenizer: Any) -> None:
    """A reward model of fewer ids than the policy's tokenizer has cannot have been trained with it."""
    rows = int(reward_model.config.get_text_config().vocab_size)
    if len(tokenizer) > rows:
        raise UsageError(
            f"the reward model reads {rows} different tokens and the policy's tokenizer has {len(tokenizer)}, so it "
            "has a tokenizer of its own: give ModelReward(reward_model, its_tokenizer)"
        )


# --- grammar --------------------------------------------------------------------------------------------------------


def weight_and_name(name: str) -> tuple[float, str]:
    """
    >>> weight_and_name("0.2*length:64"), weight_and_name("gold")
    ((0.2, 'length:64'), (1.0, 'gold'))
    """
    match = WEIGHTED.fullmatch(name)
    weight, bare = (float(match[1]), match[2]) if match else (1.0, name.strip())
    if not bare or not math.isfinite(weight):
        raise UsageError(f"--reward {name!r} is no reward: write a name, or WEIGHT*NAME such as 0.2*length:64")
    return weight, bare


def is_verifier(name: str) -> bool:
    return name.partition(":")[0] in NAMES


def check_function_name(name: str) -> None:
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or not function:
        path = name.rstrip(":")
        raise UsageError(f"--reward {name} names no function: write {path}:function")
    if not expanded(path).is_file():
        raise UsageError(f"--reward {name}: no such file: {path} (looked from {Path.cwd()}); check the path")


def is_model_name(name: str) -> bool:
    """A folder, or the form of a path or a hub id."""
    return expanded(name).is_dir() or re.fullmatch(r"[^:*\s]*[/\\][^:*\s]*|[A-Za-z]:\\\S*", name) is not None


def unknown(name: str) -> UsageError:
    close = nearest(name.partition(":")[0], NAMES)
    meant = f"did you mean {close}? " if close else ""
    return UsageError(
        f"--reward {name}: there is no such reward; {meant}There are {', '.join(EXAMPLES)}, file.py:function, and "
        "folders of reward models (train one with: python main.py train-reward)"
    )
