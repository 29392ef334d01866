r"""What rules without understanding get right: a reward model that is no better than these has learnt no more.

- **Length.** People, and even more so models that judge, lean to longer answers (Singhal et al. 2310.03716): in many
  preference sets "take the longer" is right in 55 to 60 %.
- **A bag of words.** The Bradley–Terry model on word counts: r(y) = w·φ(y) with φ(y)_i = log(1 + count of word i). It
  knows which words and marks good answers hold, and neither their order nor the question. Fitted on training pairs by

      L(w) = Σ −log sigmoid(w·(φ(chosen) − φ(rejected))) + λ/2 |w|²,   λ = 1

  What it gets right needs no language model.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from auto_bot_tuner.evaluation.intervals import Share, share_won

# (text of the chosen response, text of the rejected one)
TextPair = tuple[str, str]

MOST_WORDS = 2_000  # the most frequent of the training pairs: rarer ones would be learnt by heart
MOST_PAIRS = 20_000  # drawn by a seeded lot: ten for each word; all 160,000 of HH would take gigabytes and minutes
PENALTY = 1.0  # λ
MOST_STEPS = 200  # of L-BFGS: it takes some tens


@dataclass(frozen=True)
class Baseline:
    """How many of the measured pairs a rule gets right, and on how many pairs it was fitted (0: on none)."""

    right: Share
    fitted_on: int = 0


def bag_of_words(train: Sequence[TextPair], test: Sequence[TextPair], clusters: Sequence[Hashable] = ()) -> Baseline:
    """Fit on `train`, measure on `test`, whose `clusters` are its prompts. Words of `test` that `train` does not have
    count for nothing."""
    train = train if len(train) <= MOST_PAIRS else random.Random(0).sample(train, MOST_PAIRS)
    counts = Counter(word for pair in train for text in pair for word in words(text))
    place = {word: i for i, (word, _) in enumerate(counts.most_common(MOST_WORDS))}
    weights = fit(differences(train, place))  # (V,)
    return Baseline(share_won((differences(test, place) @ weights).tolist(), clusters), len(train))


def words(text: str) -> list[str]:
    """Words in lower case, and every mark by itself.

    >>> words("Don't, please!")
    ['don', "'", 't', ',', 'please', '!']
    """
    return re.findall(r"\w+|[^\w\s]", text.lower())


def differences(pairs: Sequence[TextPair], place: dict[str, int]) -> torch.Tensor:
    """φ(chosen) − φ(rejected) of n pairs: (n, V)."""
    found = torch.zeros(len(pairs), len(place), dtype=torch.float64)
    for i, pair in enumerate(pairs):
        for text, sign in zip(pair, (1, -1), strict=True):
            for word, count in Counter(words(text)).items():
                if word in place:
                    found[i, place[word]] += sign * math.log1p(count)
    return found


def fit(x: torch.Tensor) -> torch.Tensor:
    """The w (V,) of least L(w) for x = φ(chosen) − φ(rejected) (n, V).

    L is smooth and strictly convex: L-BFGS finds its one minimum from any start.
    """
    weights = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=MOST_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.softplus(-(x @ weights)).sum() + PENALTY / 2 * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weights.detach()
