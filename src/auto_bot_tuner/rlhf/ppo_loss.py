r"""The question that PPO's losses answer: *which of the tokens that were written turned out better than expected?*

    $$ L^\pi = \frac{1}{|M|} \sum_{t \in M} \max\big(-A_t \rho_t,\; -A_t \, \mathrm{clip}(\rho_t, 1 - \epsilon,
       1 + \epsilon)\big), \qquad \rho_t = \frac{\pi_\theta(y_t \mid s_t)}{\pi_{old}(y_t \mid s_t)} $$

Proximal policy optimisation (Schulman et al. 2017, 1707.06347, eq. 7) on text, in the details of Ziegler et al. 2019
(1909.08593, §2.2) and Huang et al. 2024 (2403.17031). From scores to steps, in the order of this file:

    token_rewards  $r_t = -\beta \log \frac{\pi_{old}}{\pi_{ref}}$, and the score at the last token
    compute_gae    $\delta_t = r_t + \gamma V_{t+1} - V_t, \; A_t = \delta_t + \gamma \lambda A_{t+1}$ (1506.02438)
    whiten         $A$ centred and scaled over all tokens of the rollout
    policy_loss    above
    value_loss     $\frac12 \max\big((V - R)^2, (V_{old} + \mathrm{clip}(V - V_{old}, \pm c) - R)^2\big)$
    entropy_bonus  $-c_H$ times the mean entropy

| symbol                 | variable                 | meaning                                                       |
|------------------------|--------------------------|---------------------------------------------------------------|
| $\log \pi_\theta$      | `logprobs`               | (B, R) of each response token, under the present policy       |
| $\log \pi_{old}$       | `old_logprobs`           | (B, R) under the policy that wrote it                         |
| $\log \pi_{ref}$       | `reference_logprobs`     | (B, R) under the frozen reference                             |
| $M$                    | `mask`                   | (B, R) bool: real tokens; the rest is right padding           |
| $A_t$                  | `advantages`             | (B, R) how much better than expected things went from t on    |
| $R_t$                  | `returns`                | (B, R) what the value network should have said: $A_t + V_t$   |
| $V_t$                  | `values`                 | (B, R) what it said before token t, at the state $s_t$        |
| $\rho_t$               | `ratio`                  | (B, R) how much likelier the token has become                 |
| $\epsilon$             | `clip_ratio`             | how much likelier or less likely before the push ends         |
| $\beta$                | `kl_coefficient`         | price of a nat of divergence, in units of reward              |
| $\gamma, \lambda$      | `gamma`, `lam`           | weight of later rewards, trust in rewards rather than values  |

The gradient of the policy loss raises the log-probability of each token by $A_t \rho_t$, and lowers it where A is
negative. The max makes the loss a pessimist: a token whose probability has moved past the clip *in the direction of its
advantage* gets no gradient; one that moved the wrong way is pulled back with all its weight.

Limiting case (tested): at the first step $\pi_\theta = \pi_{old}$, so every ratio is 1, nothing is clipped, and the
loss is minus the mean advantage: 0 after whitening. Its gradient is not 0; it is that of $-A \log \pi$, the policy
gradient. A PPO loss is no measure of progress; the reward is.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from auto_bot_tuner.rlhf.loss import Metrics, named

KLKind = Literal["k1", "k2", "k3"]


# ---- masked statistics ----


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of x (B, R) over the true places of the mask, whatever stands elsewhere; 0 where none is true."""
    return x.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)


def masked_variance(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean squared distance from the mean over the true places: divided by n, as the population's."""
    return masked_mean((x - masked_mean(x, mask)).square(), mask)


def whiten(x: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
    r"""$(x - \mu) / \sqrt{\sigma^2 + 10^{-8}}$ over the valid tokens of the whole batch (2403.17031).

    Not per response: the better response would then be told that its tokens are average.

    Args:
        x: (B, R). mask: (B, R) bool.
        shift_mean: False adds the mean again, so that only the scale changes.

    Returns:
        (B, R), 0 under padding: mean 0 and variance 1 over the valid tokens.
    """
    mean = masked_mean(x, mask)
    whitened = (x - mean) * torch.rsqrt(masked_variance(x, mask) + 1e-8)
    return (whitened if shift_mean else whitened + mean).masked_fill(~mask, 0)


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    r"""$1 - \mathrm{Var}(R - V) / \mathrm{Var}(R)$: 1 where values foresee all returns, 0 where a constant would do.

    Below 0 the value network does worse than a constant. Not a mean: take it over a whole rollout.

    Returns:
        A scalar without gradient; 0 where the returns do not vary, since there is nothing to explain.
    """
    values, returns = values.detach(), returns.detach()
    variance = masked_variance(returns, mask)
    unexplained = masked_variance(returns - values, mask)
    return torch.where(variance > 0, 1 - unexplained / variance.clamp(min=1e-30), 0.0)


# ---- from scores to advantages ----


def kl_estimates(
    logprobs: torch.Tensor, reference_logprobs: torch.Tensor, mask: torch.Tensor, kind: KLKind
) -> torch.Tensor:
    r"""KL(policy || reference) of each token, estimated at the one token that the policy sampled.

    With $d = \log \pi - \log \pi_{ref}$ (Schulman 2020, "Approximating KL divergence"):

        k1   d                   unbiased, often negative, noisy
        k2   d² / 2              biased a little, never negative; its *gradient* is unbiased
        k3   e^{-d} - 1 + d      unbiased, never negative; its gradient is that of KL(reference || policy)

    k1 belongs in the reward. As a loss its expected gradient is 0: the score function has mean 0.

    Returns:
        (B, R) in nats, 0 under padding.
    """
    difference = (logprobs - reference_logprobs).masked_fill(~mask, 0)  # (B, R): d
    match kind:
        case "k1":
            return difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return torch.expm1(-difference) + difference  # exp(-d) - 1 has no digits left where d is near 0
        case _:
            raise ValueError(f"kind {kind!r} is none of {', '.join(get_args(KLKind))}")


def kl_penalty(
    logprobs: torch.Tensor, reference_logprobs: torch.Tensor, mask: torch.Tensor, kind: KLKind = "k1"
) -> tuple[torch.Tensor, Metrics]:
    """The divergence from the reference per token, by one of the `kl_estimates`.

    Args:
        logprobs, reference_logprobs: (B, R), of tokens that were sampled from the policy.
        mask: (B, R) bool.
        kind: k1, k2 or k3.

    Returns:
        (B, R) in nats, 0 under padding; and `kl` (k1) and `kl_k3`, both in nats per *response*: sums over tokens,
        means over responses. They agree but for noise; k1 may come out negative where the truth is near 0.

    Raises:
        ValueError: an unknown kind.
    """
    penalty = kl_estimates(logprobs, reference_logprobs, mask, kind)
    kl, kl_k3 = (kl_estimates(logprobs, reference_logprobs, mask, each) for each in ("k1", "k3"))
    return penalty, named(kl=kl.sum(dim=1).mean(), kl_k3=kl_k3.sum(dim=1).mean())


def token_rewards(
    scores: torch.Tensor,
    logprobs: torch.Tensor,
    reference_logprobs: torch.Tensor | None,
    mask: torch.Tensor,
    kl_coefficient: float,
) -> torch.Tensor:
    r"""$r_t = -\beta (\log \pi_{old} - \log \pi_{ref})$, plus the score at the last real token (1909.08593, eq. 2).

    The sum over a response is its score less beta times its KL (k1), so that the policy that earns most is
    $\pi_{ref} \, e^{r / \beta} / Z$ (tested).

    Args:
        scores: (N,), one per response.
        logprobs: (N, R), of the policy that wrote the responses. A reward is a number: no gradient flows.
        reference_logprobs: (N, R), or None for no penalty.
        mask: (N, R) bool, right-padded.
        kl_coefficient: beta, reward per nat.

    Returns:
        (N, R), 0 under padding.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    is_last = positions == mask.sum(dim=1, keepdim=True) - 1  # (N, R): counted, never found by a token's value
    rewards = scores.detach()[:, None] * is_last
    if reference_logprobs is not None:
        rewards = rewards - kl_coefficient * kl_estimates(logprobs, reference_logprobs, mask, "k1").detach()
    return rewards


def compute_gae(
    rewards: torch.Tensor, values: torch.Tensor, gamma: float, lam: float, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Generalised advantage estimation (Schulman et al. 2016, 1506.02438, eq. 16), backwards over each response.

        $$ A_t = \sum_{l \ge 0} (\gamma \lambda)^l \delta_{t+l}, \qquad \delta_t = r_t + \gamma V_{t+1} - V_t $$

    A response's last token has nothing after it: V is 0 there, whatever the network says of padding.
    lam = 1 gives the rewards that came less V (no bias), lam = 0 what one token changed in V's opinion (little noise).

    Args:
        rewards: (B, R) per token. values: (B, R), V *before* each token.
        gamma: weight of the next reward relative to this one. lam: lambda.
        mask: (B, R) bool, right-padded.

    Returns:
        Advantages and returns (advantages + values; take them before whitening), (B, R) each, no gradient, 0 under
        padding.
    """
    # With 0 under padding, backwards through it stays 0: a row that ended earlier waits for its end.
    rewards, values = rewards.detach().masked_fill(~mask, 0), values.detach().masked_fill(~mask, 0)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = values.new_zeros(len(values))  # (B,): after the end
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = delta + gamma * lam * next_advantage
        next_value, next_advantage = values[:, t], advantages[:, t]
    return advantages, advantages + values


# ---- the three losses ----


def clipped_objective(
    log_ratio: torch.Tensor, advantages: torch.Tensor, clip_ratio: float, clip_ratio_high: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""$\max(-A\rho, -A \, \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon_{high}))$ and where the clip ends the push.

    Args:
        log_ratio: (B, R), log of rho. advantages: broadcastable to it.
        clip_ratio, clip_ratio_high: how far probabilities may fall and rise; None: as far up as down.

    Returns:
        Losses (B, R), and bool (B, R): the tokens that get no gradient.
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_ratio, 1 + (clip_ratio if clip_ratio_high is None else clip_ratio_high))
    plain_loss, clipped_loss = -advantages * ratio, -advantages * clipped
    return torch.maximum(plain_loss, clipped_loss), clipped_loss > plain_loss


def ratio_metrics(log_ratio: torch.Tensor, is_clipped: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """How far the policy is from the one that wrote: means over tokens, without gradient. At update 0: 0, 0, 1, 0."""
    log_ratio = log_ratio.detach()
    change = torch.expm1(log_ratio)  # (B, R): ratio - 1
    return {
        "clip_fraction": masked_mean(is_clipped.to(log_ratio.dtype), mask),
        "approx_kl": masked_mean(change - log_ratio, mask),  # k3 of KL(old || new), nats per token
        "ratio": 1 + masked_mean(change, mask),
        "ratio_gap": masked_mean(change.abs(), mask),
    }


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    clip_ratio: float = 0.2,
    clip_ratio_high: float | None = None,
) -> tuple[torch.Tensor, Metrics]:
    """PPO's clipped loss (1707.06347, eq. 7): the mean over valid tokens. Weigh micro-batches by their tokens.

    Args:
        logprobs: (B, R), with gradient. old_logprobs: (B, R), at the same temperature.
        advantages: (B, R). mask: (B, R) bool.
        clip_ratio, clip_ratio_high: as in `clipped_objective`.

    Returns:
        The loss, and means over tokens: `policy_loss`, `clip_fraction` (tokens that get no gradient), `approx_kl`
        (k3 of KL(old || new), nats per token), `ratio` (about 1), `ratio_gap` (of |ratio - 1|).
    """
    log_ratio = (logprobs - old_logprobs).masked_fill(~mask, 0)  # (B, R)
    losses, is_clipped = clipped_objective(log_ratio, advantages.detach(), clip_ratio, clip_ratio_high)
    loss = masked_mean(losses, mask)
    return loss, named(policy_loss=loss, **ratio_metrics(log_ratio, is_clipped, mask))


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, value_clip: float = 0.2
) -> tuple[torch.Tensor, Metrics]:
    """Half the squared error, and no credit for moving further than value_clip in one rollout (2403.17031).

    Args:
        values: (B, R), with gradient. old_values: (B, R), those that the returns were made of. returns: (B, R).
        mask: (B, R) bool.
        value_clip: in units of reward. 0: no clipping.

    Returns:
        The mean over valid tokens of half the larger square, and `value_loss`, `value_clip_fraction` (tokens that get
        no gradient), both means over tokens, and `explained_variance` (not a mean: see there).
    """
    squares = clipped_squares = (values - returns).square()  # (B, R)
    is_clipped = torch.zeros_like(mask)
    if value_clip:
        change = values - old_values
        moved = change.clamp(-value_clip, value_clip)
        clipped_squares = (old_values + moved - returns).square()
        # Within the clip old + (new - old) may miss new by a rounding: a larger square alone is no sign of a clip.
        is_clipped = (moved != change) & (clipped_squares > squares)
    loss = masked_mean(torch.maximum(squares, clipped_squares), mask) / 2
    return loss, named(
        value_loss=loss,
        value_clip_fraction=masked_mean(is_clipped.to(values.dtype), mask),
        explained_variance=explained_variance(values, returns, mask),
    )


def entropy_bonus(entropies: torch.Tensor, mask: torch.Tensor, coefficient: float) -> tuple[torch.Tensor, Metrics]:
    """-coefficient times the mean entropy (B, R) of the next-token distributions over valid tokens, in nats.

    Returns:
        The loss, which falls as the policy stays undecided, and `entropy`.
    """
    entropy = masked_mean(entropies, mask)
    return -coefficient * entropy, named(entropy=entropy)
