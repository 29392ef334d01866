"""What is claimed, method by method, and what is left out of the page and why."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import auto_bot_tuner.dpo.loss
import auto_bot_tuner.evaluation.intervals
import auto_bot_tuner.evaluation.sampling
import auto_bot_tuner.grpo.loss
import auto_bot_tuner.rlhf.kl_controller
import auto_bot_tuner.rlhf.loss
import auto_bot_tuner.rlhf.ppo_loss
import auto_bot_tuner.rlhf.running_scale
import auto_bot_tuner.sft.loss
import auto_bot_tuner.training.batching
import auto_bot_tuner.training.logprobs
import auto_bot_tuner.training.optim
from proof import (
    advantages,
    bandits,
    evaluation,
    groups,
    identities,
    kto,
    masked,
    policy,
    preferences,
    rewards,
    sampling,
    sft,
    steps,
    training,
)
from proof.claims import Claim


class Section(NamedTuple):
    """A table of the page."""

    title: str
    words: str
    claims: list[Claim]


TOO_LONG = """Tested, but too long to be measured here: two processes = one
([off-policy](../tests/test_two_processes.py), [on-policy](../tests/test_rl_processes.py)), planted preferences are
found ([reward models](../tests/test_reward_trainer.py)), PPO reaches π_ref e^(r/β) / Z
([oracles](../tests/test_policy_gradient_oracles.py)), runs that are killed for real ([SFT](../tests/test_resume.py),
[PPO and GRPO](../tests/test_rl_resume.py))."""

SECTIONS = [
    Section(
        "Supervised fine-tuning", "The loss as its formula says, and the way that training really takes.", sft.CLAIMS
    ),
    Section("Reward models", "Losses of judgements, and the place where the score is read.", rewards.CLAIMS),
    Section(
        "DPO and its family",
        "Each member on sums of log-probabilities of both answers.",
        [*preferences.CLAIMS, *kto.CLAIMS],
    ),
    Section(
        "PPO",
        "From scores to steps: statistics, divergence, rewards, advantages, losses.",
        [*masked.CLAIMS, *policy.CLAIMS],
    ),
    Section(
        "GRPO and its family", "Advantages of siblings, and the members' losses.", [*advantages.CLAIMS, *groups.CLAIMS]
    ),
    Section("The step", "Learning rate, decay, AdamW, and how rows are cut.", steps.CLAIMS),
    Section("Writing", "What is sampled is what is said.", sampling.CLAIMS),
    Section("Evaluation", "Estimators and their intervals.", evaluation.CLAIMS),
    Section("On average", "In a world whose responses can all be listed, and their gradients summed.", bandits.CLAIMS),
    Section("Identities", f"Two ways to the same thing. {TOO_LONG}", identities.CLAIMS),
    Section(
        "Whole trainings beside TRL's",
        "Same model, rows, order and settings: every step's loss and gradient.",
        training.CLAIMS,
    ),
]

# Every public function of these files is on the page, or below.
FILES = [
    auto_bot_tuner.sft.loss,
    auto_bot_tuner.dpo.loss,
    auto_bot_tuner.rlhf.loss,
    auto_bot_tuner.rlhf.ppo_loss,
    auto_bot_tuner.rlhf.kl_controller,
    auto_bot_tuner.rlhf.running_scale,
    auto_bot_tuner.grpo.loss,
    auto_bot_tuner.training.logprobs,
    auto_bot_tuner.training.optim,
    auto_bot_tuner.training.batching,
    auto_bot_tuner.evaluation.sampling,
    auto_bot_tuner.evaluation.intervals,
]
LEFT_OUT = {
    "sft.loss": {},
    "dpo.loss": {"token_mean": "a division; inside IPO, SimPO, ORPO"},
    "rlhf.loss": {
        "weighted_pairs": "the common body of ranking_loss and kwise_loss",
        "named": "hands numbers over",
    },
    "grpo.loss": {
        "clip_range": "defaults; inside every member",
        "mean_over": "the members' means; inside every member",
        "token_counts": "counts; inside every member",
        "check_loss": "refuses unknown names",
    },
    "training.logprobs": {
        "autocast_dtype": "asks PyTorch for a type",
        "chunks_of_logprobs": "inside SummedNLL and TokenLogprobs",
        "softmax_minus_one_hot": "their gradient",
        "entropy_of": "inside TokenLogprobs",
        "entropy_gradient": "inside TokenLogprobs",
        "TrainedTokens": "what CausalNLL and SequenceLogprobs share",
        "where_they_stand": "inside SequenceLogprobs",
        "predicted": "the shift; inside CausalNLL and SequenceLogprobs",
    },
    "training.batching": {
        "Batch": "holds tensors",
        "cut_by_tokens": "inside the claim of share_between",
        "epoch_order": "inside the claim of share_between",
        "in_order": "inside the claim of share_between",
        "collate_groups": "pairs and rankings; tests/test_sequence_logprobs.py",
        "sequences_of": "reads rows",
        "fingerprint": "a digest",
        "longest_sequence": "counts",
        "row_lengths": "counts",
    },
    "evaluation.intervals": {"share_won": "counts, then Wilson"},
}


def claims() -> Iterator[Claim]:
    for section in SECTIONS:
        yield from section.claims


def short(module: ModuleType) -> str:
    """dpo.loss."""
    return module.__name__.split("auto_bot_tuner.")[-1]


def public(module: ModuleType) -> dict[str, Any]:
    """Functions and classes that the file itself defines, but for those whose name begins with an underscore."""
    return {
        name: value
        for name, value in vars(module).items()
        if (inspect.isfunction(inspect.unwrap(value)) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


def missing() -> list[str]:
    """Public functions that are neither on the page nor left out with a reason."""
    on_page = {claim.of.__qualname__.split(".")[0] for claim in claims()}
    return [
        f"{short(module)}.{name}"
        for module in FILES
        for name in public(module)
        if name not in on_page and name not in LEFT_OUT.get(short(module), {})
    ]
