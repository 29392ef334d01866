r"""The question that the loss answers: *of two answers, does the model now prefer the better one by more than before?*

    $$ L = -\log \sigma(\beta h), \qquad
       h = \log \frac{\pi_\theta(y_w \mid x)}{\pi_{ref}(y_w \mid x)}
         - \log \frac{\pi_\theta(y_l \mid x)}{\pi_{ref}(y_l \mid x)} $$

Direct preference optimisation (Rafailov et al. 2023, 2305.18290, eq. 7). RLHF looks for the policy that earns the most
reward without leaving the reference far behind (beta is the price of a nat of KL). That policy is known in closed form,
$\pi^* \propto \pi_{ref} \, e^{r / \beta}$ (eq. 4); read backwards, each policy *is* a reward model,
$r = \beta \log (\pi_\theta / \pi_{ref})$ up to a constant of the prompt. Put this r into the Bradley–Terry loss of a
reward model, and reward model and reinforcement learning are gone: what is left is a classification of pairs.

| symbol              | variable                                 | meaning                                            |
|---------------------|------------------------------------------|----------------------------------------------------|
| $\log \pi_\theta$   | `policy_chosen`, `policy_rejected`       | (B,) sums over the answer's tokens, its end too    |
| $\log \pi_{ref}$    | `reference_chosen`, `reference_rejected` | (B,) the same under the frozen reference           |
| $h$                 | `margin`                                 | (B,) how much more the policy prefers the chosen   |
| $\beta$             | `beta`                                   | how many units of reward one nat is worth          |

The gradient raises the chosen and lowers the rejected answer by the same weight $\beta \sigma(-\beta h)$: beta times
the probability that the pair is still ranked wrongly. Pairs that are learnt stop pulling. Only the *difference* counts,
so both log-probabilities may fall together (likelihood displacement); an SFT term, `sft_weight`, holds them up.

Limiting case (tested): where policy and reference agree h = 0, and the loss is ln 2 whatever beta is. A first loss
that is not means that the reference is not the model that training started from.

The family changes one thing each:
                                                                                                      at h = 0
    sigmoid       DPO                                L(h) = -log σ(βh)                                ln 2
    conservative  a share ε of the labels is wrong   (1-ε) L(h) + ε L(-h)                             ln 2
    robust        … and its bias taken out           ((1-ε) L(h) - ε L(-h)) / (1-2ε)                  ln 2
    ipo           a target, not "as far as you can"  (h - 1/2β)², h of token means                    1/4β²
    hinge         pairs past the margin are done     max(0, 1 - βh)                                   1
    simpo         no reference, token means          -log σ(β (mean log π_w - mean log π_l) - γ)
    orpo          no reference, odds, SFT inside     -mean log π_w - β log σ(log odds_w - log odds_l)
    kto           single answers, good or bad        w (1 - σ(±β(log π/π_ref - z)))                   w/2
"""

from __future__ import annotations

import math
from typing import get_args

import torch
import torch.nn.functional as F

from auto_bot_tuner.dpo.config import WITHOUT_REFERENCE, Loss

BY_TOKEN_MEANS = ("ipo", "simpo", "orpo")  # sums would let the longer answer of a pair weigh more


def dpo_loss(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    reference_chosen: torch.Tensor | None,
    reference_rejected: torch.Tensor | None,
    beta: float = 0.1,
    loss_type: str = "sigmoid",
    *,
    label_smoothing: float = 0.0,
    simpo_gamma: float = 0.5,
    sft_weight: float = 0.0,
    chosen_lengths: torch.Tensor | None = None,
    rejected_lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean loss of pairs, by the member of the family that `loss_type` names (all but KTO, which has no pairs).

    Args:
        policy_chosen, policy_rejected: (B,) sums of log-probabilities of the answers' tokens, in nats.
        reference_chosen, reference_rejected: (B,) likewise; None for simpo and orpo, which need none.
        beta: strength; the paper's tau of IPO, lambda of ORPO.
        label_smoothing: share of labels that are wrong, below 0.5 (conservative and robust).
        simpo_gamma: margin of reward that the chosen answer should lead by (simpo).
        sft_weight: weight of the chosen answer's mean NLL per token beside any member (RPO, Pang et al. 2404.19733).
        chosen_lengths, rejected_lengths: (B,) tokens summed; where per-token means are taken (ipo, simpo, orpo, SFT).

    Returns:
        The loss (a scalar with a gradient), and `loss`, `accuracy` (share of pairs ranked rightly, a tie is half
        right), `reward_margin`, `chosen_rewards`, `rejected_rewards`: beta times what the member compares, in nats.

    Raises:
        ValueError: an unknown member, or one that lacks its reference or its lengths.
    """
    if loss_type not in get_args(Loss) or loss_type == "kto":
        raise ValueError(f"loss_type {loss_type!r} is none of {', '.join(get_args(Loss))} (of which KTO is kto_loss)")
    if loss_type in WITHOUT_REFERENCE:
        chosen, rejected = policy_chosen, policy_rejected  # (B,)
    elif reference_chosen is None or reference_rejected is None:
        raise ValueError(f"{loss_type} compares with a reference: give reference_chosen and reference_rejected")
    else:
        chosen, rejected = policy_chosen - reference_chosen, policy_rejected - reference_rejected  # (B,)
    if loss_type in BY_TOKEN_MEANS:
        chosen, rejected = token_mean(chosen, chosen_lengths), token_mean(rejected, rejected_lengths)

    margin = chosen - rejected  # (B,): h
    match loss_type:
        case "sigmoid":
            losses = sigmoid_loss(margin, beta)
        case "conservative":
            losses = conservative_loss(margin, beta, label_smoothing)
        case "robust":
            losses = robust_loss(margin, beta, label_smoothing)
        case "ipo":
            losses = ipo_loss(margin, beta)
        case "hinge":
            losses = hinge_loss(margin, beta)
        case "simpo":
            losses = simpo_loss(margin, beta, simpo_gamma)
        case _:
            losses = orpo_loss(chosen, rejected, beta)
    loss = losses.mean()
    if sft_weight:
        loss = loss - sft_weight * token_mean(policy_chosen, chosen_lengths).mean()
    return loss, preference_metrics(loss, beta * chosen.detach(), beta * rejected.detach())


def preference_metrics(
    loss: torch.Tensor, chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor
) -> dict[str, float]:
    """What to look at: the loss, and the implicit rewards (B,) of both sides."""
    difference = chosen_rewards - rejected_rewards
    metrics = {
        "loss": loss.detach(),
        "accuracy": (difference.sign() + 1).mean() / 2,
        "reward_margin": difference.mean(),
        "chosen_rewards": chosen_rewards.mean(),
        "rejected_rewards": rejected_rewards.mean(),
    }
    return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))  # one wait for the GPU


def token_mean(summed_logprobs: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Per-token means of sums (B,)."""
    if lengths is None:
        raise ValueError("per-token means need chosen_lengths and rejected_lengths, the number of tokens summed")
    return summed_logprobs / lengths


# ---- the family: margin (B,) -> losses (B,) ----


def sigmoid_loss(margin: torch.Tensor, beta: float) -> torch.Tensor:
    r"""DPO (2305.18290, eq. 7): $-\log \sigma(\beta h)$; as β → 0, $\ln 2 - \beta h / 2$: all pairs pull alike."""
    return -F.logsigmoid(beta * margin)


def conservative_loss(margin: torch.Tensor, beta: float, label_smoothing: float) -> torch.Tensor:
    r"""Conservative DPO (Mitchell 2023, "DPO with noisy preferences"): $(1-\varepsilon) L(h) + \varepsilon L(-h)$.

    The cross-entropy with a label that is right with probability 1 - ε: its minimum is finite, where
    $\sigma(\beta h) = 1 - \varepsilon$. ε = 0 is DPO.
    """
    return (1 - label_smoothing) * sigmoid_loss(margin, beta) + label_smoothing * sigmoid_loss(-margin, beta)


def robust_loss(margin: torch.Tensor, beta: float, label_smoothing: float) -> torch.Tensor:
    r"""Robust DPO (Chowdhury et al. 2024, 2403.00409): $((1-\varepsilon) L(h) - \varepsilon L(-h)) / (1-2\varepsilon)$.

    Unbiased: averaged over labels that are flipped with probability ε, it is DPO's loss of the clean labels. The price
    is variance, which 1 / (1 - 2ε) shows. ε = 0 is DPO.
    """
    noisy = (1 - label_smoothing) * sigmoid_loss(margin, beta) - label_smoothing * sigmoid_loss(-margin, beta)
    return noisy / (1 - 2 * label_smoothing)


def ipo_loss(margin: torch.Tensor, beta: float) -> torch.Tensor:
    r"""IPO (Azar et al. 2023, 2310.12036, eq. 17; beta is its tau): $(h - 1 / 2\beta)^2$.

    DPO's minimum lies at h = ∞ for a pair that is always labelled the same way, whatever beta: the KL penalty is gone.
    A square has its minimum where it says, h = 1/(2 beta). The paper's h is made of sums; `dpo_loss` takes per-token
    means, as TRL does (with its authors' consent). For the paper's, pass lengths of one.
    """
    return (margin - 1 / (2 * beta)) ** 2


def hinge_loss(margin: torch.Tensor, beta: float) -> torch.Tensor:
    r"""SLiC's hinge (2305.10425) of DPO's h (Liu et al. 2309.06657): $\max(0, 1 - \beta h)$; none left past 1/β."""
    return torch.relu(1 - beta * margin)


def simpo_loss(margin: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
    r"""SimPO (Meng et al. 2024, 2405.14734, eq. 6): $-\log \sigma(\beta h - \gamma)$, h of token means, no reference.

    The chosen answer's mean log-probability shall lead by gamma / beta. The paper takes beta 2 to 2.5 and gamma up to
    half of it. gamma = 0 is DPO by token means with a reference that finds every token equally likely.
    """
    return -F.logsigmoid(beta * margin - gamma)


def orpo_loss(chosen_mean: torch.Tensor, rejected_mean: torch.Tensor, beta: float) -> torch.Tensor:
    r"""ORPO (Hong et al. 2024, 2403.07691, eq. 6 and 7; beta is its lambda): SFT and preference in one, no reference.

        $$ -\log p_w - \beta \log \sigma(\log \frac{p_w}{1 - p_w} - \log \frac{p_l}{1 - p_l}) $$

    with p the geometric mean of the token probabilities. beta = 0 is SFT on the chosen answers, each weighing the same.
    """
    # Probability one has infinite odds: stay the smallest step of float32 away from it.
    chosen_mean, rejected_mean = (mean.clamp(max=-torch.finfo(mean.dtype).eps) for mean in (chosen_mean, rejected_mean))
    log_odds_ratio = (chosen_mean - log1mexp(chosen_mean)) - (rejected_mean - log1mexp(rejected_mean))  # (B,)
    return -chosen_mean - beta * F.logsigmoid(log_odds_ratio)


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - e^x) for x < 0: near 0 through expm1, far from it through log1p, each where it keeps its digits."""
    is_near_zero = x > -math.log(2)
    # torch.where computes both: each branch gets values that it can bear, or its gradient would be nan.
    near, far = x.masked_fill(~is_near_zero, -1.0), x.masked_fill(is_near_zero, -1.0)
    return torch.where(is_near_zero, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))


def kto_loss(
    policy: torch.Tensor,
    reference: torch.Tensor,
    is_desirable: torch.Tensor,
    reference_point: torch.Tensor,
    beta: float = 0.1,
    *,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    r"""KTO (Ethayarajh et al. 2024, 2402.01306, §4): single answers that are good or bad, no pairs.

        $$ w \, (1 - \sigma(\pm(r - \beta z))), \qquad r = \beta \log \frac{\pi_\theta}{\pi_{ref}}, \quad
           z = \max(0, \hat{KL}(\pi_\theta \,\|\, \pi_{ref})) $$

    Kahneman and Tversky: people judge gains and losses from a reference point. Here it is z, how far the policy has
    moved in general: without it, raising the probability of everything would look like success.

    Args:
        policy, reference: (B,) sums of log-probabilities.
        is_desirable: (B,) bool.
        reference_point: the mean log-ratio of mismatched prompts and answers of the whole step, in nats; z where
            it is not negative. No gradient flows through it.

    Returns:
        The mean loss, and `loss`, `accuracy` (answers on their side of z), `chosen_rewards` and `rejected_rewards`
        (means over the good and the bad; 0 where there are none), `reward_margin`, `desirable` (the share of good).
    """
    reference_point = reference_point.detach().clamp(min=0)
    rewards, good = beta * (policy - reference), is_desirable.to(policy.dtype)  # (B,), (B,)
    advantage = (rewards - beta * reference_point) * (2 * good - 1)  # (B,): + for the good, - for the bad
    weights = desirable_weight * good + undesirable_weight * (1 - good)
    loss = (weights * (1 - torch.sigmoid(advantage))).mean()
    chosen = (rewards * good).sum() / good.sum().clamp(min=1)
    rejected = (rewards * (1 - good)).sum() / (1 - good).sum().clamp(min=1)
    metrics = preference_metrics(loss, chosen.detach(), rejected.detach())
    accuracy = (advantage.detach().sign() + 1).mean() / 2
    return loss, {**metrics, "accuracy": accuracy.item(), "desirable": good.mean().item()}


def initial_loss(loss_type: str, beta: float) -> float | None:
    """The loss where policy and reference agree, whatever the pair; None where it depends on the answers or weights."""
    known = {"sigmoid": math.log(2), "conservative": math.log(2), "robust": math.log(2)}
    return {**known, "hinge": 1.0, "ipo": 1 / (4 * beta**2)}.get(loss_type)
