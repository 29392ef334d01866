r"""The question that the loss answers: *how surprised is the reward model by what people preferred?*

    $$ L = -\frac{1}{B} \sum_{i=1}^{B} \log \sigma\big(r_\theta(x_i, y^+_i) - r_\theta(x_i, y^-_i) - m_i\big) $$

The model of Bradley and Terry (1952): a response is preferred with a probability that depends on the difference of
two hidden scores, $P(y^+ \succ y^-) = \sigma(r^+ - r^-)$. Its negative log-likelihood trains reward models since
Stiennon et al. 2020 (2009.01325, §3.4) and Ouyang et al. 2022 (2203.02155, eq. 1).

| symbol        | variable           | meaning                                                                  |
|---------------|--------------------|--------------------------------------------------------------------------|
| $r^+, r^-$    | `chosen, rejected` | scores of the preferred and of the other response                        |
| $m$           | `margin`           | how far apart they should be at least (Llama 2, 2307.09288, eq. 2)       |
| $\lambda$     | `centering`        | weight of $(r^+ + r^-)^2$, which keeps scores near 0 (2312.09244, eq. 2) |
| $\varepsilon$ | `label_smoothing`  | share of the judgements that are taken to be the wrong way round         |

The gradient with respect to a difference is minus the probability of the *other* outcome, $-\sigma(-(r^+ - r^- - m))$:
a pair that is understood pulls no more, a pair that is misjudged pulls with all its weight.

Limiting case (tested): a model that scores everything alike loses ln 2 = 0.693 per pair. Only differences count, so the
loss cannot see a constant added to all scores: the head needs no bias, and the zero point is set after training.

Rankings of K responses are all their pairs, and numbers are learnt by least squares; see below.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

Metrics = dict[str, float]


def ranking_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: torch.Tensor | float = 0.0,
    *,
    centering: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, Metrics]:
    """Bradley-Terry's negative log-likelihood of B judgements.

    Args:
        chosen: (B,), scores of the responses that were preferred.
        rejected: (B,), scores of the others.
        margin: (B,) or one number, subtracted from the difference.
        centering: weight of the mean of (chosen + rejected)^2. It fixes the zero point that differences leave open.
        label_smoothing: probability that a judgement is wrong; the best difference is then finite,
            ln((1 - e) / e), where it would grow for ever.

    Returns:
        The loss (a scalar with a gradient, nats per pair), and `loss`, `accuracy` (share of pairs with chosen >
        rejected; a tie is half right), `reward_margin` (mean of chosen - rejected), `chosen_rewards` and
        `rejected_rewards` (means).
    """
    weight = torch.full_like(chosen, 1 / len(chosen), dtype=torch.float32)  # (B,)
    return weighted_pairs(chosen, rejected, weight, margin, centering, label_smoothing)


def kwise_loss(
    rewards: torch.Tensor,
    group: torch.Tensor,
    scores: torch.Tensor | None = None,
    *,
    centering: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, Metrics]:
    r"""All pairs of each ranking (Ouyang et al. 2022, 2203.02155, eq. 1).

        $$ L = -\frac{1}{G} \sum_g \frac{1}{|P_g|} \sum_{(i,j) \in P_g} \log \sigma(r_i - r_j) $$

    $P_g$ holds the pairs of ranking g in which i stands before j. Each *prompt* weighs once: its K(K-1)/2 pairs share K
    responses, and counted apart a prompt with nine answers would weigh 36 times one with two. With K = 2 this is
    `ranking_loss` (tested).

    Args:
        rewards: (S,), scores of the responses, ranking after ranking, the best first.
        group: (S,), whose response it is: 0 ≤ group < G.
        scores: (S,), what the data says of each; a pair of equal ones is a tie and says nothing. nan: not known.
        centering, label_smoothing: as in `ranking_loss`.

    Returns:
        The loss and the metrics of `ranking_loss`, means over prompts: chosen is a pair's better side.
    """
    groups = int(group.max()) + 1
    ranks = torch.arange(len(rewards), device=rewards.device)
    judged = (group[:, None] == group[None, :]) & (ranks[:, None] < ranks[None, :])  # (S, S): i before j
    if scores is not None:
        judged &= scores[:, None] != scores[None, :]  # nan differs from everything, itself too
    better, worse = judged.nonzero(as_tuple=True)  # (pairs,), (pairs,)
    pairs_of = torch.zeros(groups, device=rewards.device).index_add_(0, group, judged.sum(dim=1).float())  # (G,)
    weight = 1 / (groups * pairs_of[group[better]])  # (pairs,): sums to one, each prompt the same
    return weighted_pairs(rewards[better], rewards[worse], weight, 0.0, centering, label_smoothing)


def weighted_pairs(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    weight: torch.Tensor,
    margin: torch.Tensor | float,
    centering: float,
    label_smoothing: float,
) -> tuple[torch.Tensor, Metrics]:
    """`ranking_loss` where the pairs weigh `weight` (B,) each, and not 1/B."""
    chosen, rejected = chosen.float(), rejected.float()
    logits = chosen - rejected - margin  # (B,): of the probability that chosen is preferred
    losses = -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)
    loss = (weight * (losses + centering * (chosen + rejected).square())).sum()
    return loss, named(
        loss=loss,
        accuracy=(weight * is_right(chosen - rejected)).sum(),
        reward_margin=(weight * (chosen - rejected)).sum(),
        chosen_rewards=(weight * chosen).sum(),
        rejected_rewards=(weight * rejected).sum(),
    )


def regression_loss(
    rewards: torch.Tensor, scores: torch.Tensor, group: torch.Tensor | None = None
) -> tuple[torch.Tensor, Metrics]:
    r"""Least squares on numbers that people gave (HelpSteer, 2311.09528): the mean of $(r_\theta(x, y) - s)^2$.

    Args:
        rewards: (S,), scores of the responses.
        scores: (S,), the numbers, relative to their mean over the data: a head without bias learns deviations.
        group: (S,), whose response it is; each prompt then weighs once. None: each response does.

    Returns:
        The loss, and `loss`, `absolute_error` (mean of |r - s|), `mean_reward`, and `score_variance`: the loss of a
        model that always answers 0, the mean.
    """
    rewards, scores = rewards.float(), scores.float()
    if group is None:
        group = torch.arange(len(rewards), device=rewards.device)
    sizes = torch.bincount(group)  # (G,)
    weight = 1 / (len(sizes) * sizes[group])  # (S,): sums to one
    error = rewards - scores
    loss = (weight * error.square()).sum()
    return loss, named(
        loss=loss,
        absolute_error=(weight * error.abs()).sum(),
        mean_reward=(weight * rewards).sum(),
        score_variance=(weight * scores.square()).sum(),
    )


def is_right(difference: torch.Tensor) -> torch.Tensor:
    """1 where the better one scores higher, 0 where lower, 1/2 where equal: who scores all alike, guesses."""
    return (difference.sign() + 1) / 2


def named(**values: torch.Tensor) -> Metrics:
    """Scalars as plain numbers, fetched from the device in one go."""
    return dict(zip(values, torch.stack([value.detach() for value in values.values()]).tolist(), strict=True))
