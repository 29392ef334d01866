r"""Best-of-n: write n responses, keep the one that the reward likes best. No training; what RL has to beat.

Whoever samples so no longer samples from the policy pi but from another distribution, pi_n: of n draws the best. How
far it is from pi is known without measuring:

    KL(pi_n || pi) \le log n - (n - 1) / n  nats a response

(Stiennon et al. 2020, 2009.01325, app. G.3; equality where no two responses score alike and none is likely, in general
a bound: Beirami et al. 2024, 2401.01879.) The divergence grows with the *logarithm* of n, so that a few samples buy a
lot of reward for little divergence; a policy that RL has moved as far should be rewarded better than that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.engine import generate
from auto_bot_tuner.evaluation.generation import stop_tokens
from auto_bot_tuner.rewards.named import as_reward
from auto_bot_tuner.rewards.source import Attempt
from auto_bot_tuner.rollouts.dataset import PromptDataset
from auto_bot_tuner.rollouts.writing import attempts_of
from auto_bot_tuner.utils.errors import UsageError


@dataclass(frozen=True)
class BestOf:
    """n responses to each of M prompts, and what each is worth."""

    attempts: list[Attempt]  # M · n: the n responses to a prompt are neighbours
    scores: torch.Tensor  # (M, n)
    components: dict[str, torch.Tensor]  # reward source → (M, n), unweighted

    @property
    def chosen(self) -> list[Attempt]:
        """M: the best response to each prompt; the first of equal ones, which is as good a lot as any."""
        best = self.scores.argmax(dim=1).tolist()
        return [self.attempts[prompt * self.scores.shape[1] + sample] for prompt, sample in enumerate(best)]


def best_of(
    model: Any, tokenizer: Any, dataset: PromptDataset, reward: Any, n: int, config: GenerationConfig
) -> BestOf:
    """n responses of the model to every prompt of the data set, scored.

    Args:
        tokenizer: the model's.
        reward: whatever `rewards.named.as_reward` takes: a reward model, a verifier's name, a function, several.
        config: how to write. Any sampler will do, as nothing is trained on its log-probabilities.

    Raises:
        UsageError: n is not positive, or greedy decoding would write the same response n times.
    """
    if n < 1:
        raise UsageError(f"best of {n}: write at least one response to choose from")
    if n > 1 and config.temperature == 0:
        raise UsageError(f"best of {n}: greedy decoding writes the same response {n} times; set a temperature above 0")
    source = as_reward(reward, tokenizer)
    prompts = [dataset[row]["input_ids"].tolist() for row in range(len(dataset))]
    generations = generate(model, prompts, config, stop_tokens(model, dataset.stop_token_ids), n)
    attempts = attempts_of(
        dataset,
        [row for row in range(len(dataset)) for _ in range(n)],
        [generation.token_ids for generation in generations],
        [generation.ended for generation in generations],
    )
    total, components = source.score(attempts)
    return BestOf(attempts, total.view(-1, n), {name: scores.view(-1, n) for name, scores in components.items()})


def best_of_kl(n: int) -> float:
    """log n - (n - 1) / n: what KL(best of n || policy) is at most, in nats a response.

    >>> best_of_kl(1), round(best_of_kl(4), 3)
    (0.0, 0.636)
    """
    return math.log(n) - (n - 1) / n


def expected_best(scores: torch.Tensor, k: int, values: torch.Tensor | None = None) -> torch.Tensor:
    r"""(M,): what best-of-k is worth on average, for any k \le n, from the same n responses.

    Averaged over all choices of k of the n, so one round of writing gives the whole curve, and with less noise than
    the first k would: with scores in ascending order, s_i is the best of C(i - 1, k - 1) of the C(n, k) choices
    (Nakano et al. 2021, 2112.09332, app. I).

    Args:
        scores: (M, n), by which the best is chosen.
        k: responses to choose from.
        values: (M, n), what to average of the chosen: the gold score, say, where a proxy chooses. None: the scores.

    Raises:
        ValueError: k is not from 1 to n.
    """
    n = scores.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"best of {k} cannot be told from {n} responses: k must be from 1 to {n}")
    ascending = scores.argsort(dim=1, stable=True, descending=True).flip(1)  # of equal ones the first counts as best
    is_best = torch.tensor([math.comb(i, k - 1) / math.comb(n, k) for i in range(n)], dtype=torch.float64)  # (n,)
    measured = scores if values is None else values
    return (measured.double().gather(1, ascending) * is_best).sum(dim=1).to(measured.dtype)
