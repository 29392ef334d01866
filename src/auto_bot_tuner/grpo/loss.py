r"""The question that GRPO's loss answers: *which of several responses to one prompt were better than their siblings?*

    $$ A_i = \frac{r_i - \bar r}{\mathrm{std}(r) + 10^{-4}}, \qquad
       L = \frac1N \sum_i \frac{1}{|y_i|} \sum_t \max\big(-A_i \rho_{i,t}, \;
           -A_i \, \mathrm{clip}(\rho_{i,t}, 1 - \epsilon, 1 + \epsilon)\big) + \beta \, \mathrm{KL}_{i,t} $$

Group-relative policy optimisation (Shao et al. 2024, 2402.03300, eq. 3): PPO without a value network. What was to be
expected of a prompt is told by the other responses to it, so all tokens of a response share one advantage.

| symbol             | variable             | meaning                                                         |
|--------------------|----------------------|-----------------------------------------------------------------|
| $r_i$              | `rewards`            | (N,) one per response; the G of a prompt are neighbours         |
| $A_i$              | `advantages`         | (N,) or (N, R)                                                  |
| $\log \pi_\theta$  | `logprobs`           | (N, R) of each token under the present policy                   |
| $\log \pi_{old}$   | `old_logprobs`       | (N, R) under the policy that wrote it                           |
| $\log \pi_{ref}$   | `reference_logprobs` | (N, R) under the frozen reference                               |
| $\log \rho_{i,t}$  | `log_ratio`          | (N, R) how much likelier the token has become                   |
| $y_i$              | `mask`               | (N, R) bool: the tokens of each response; the rest is padding   |
| $\epsilon, \beta$  | `clip_ratio`, `beta` | how far probabilities may move; what a nat of divergence weighs |

The gradient raises the log-probability of all tokens of the responses that beat their siblings, and lowers the others';
where all are equal, right or wrong, it is zero: such a prompt teaches nothing.

Limiting case (tested): at the first step all ratios are 1, so `grpo`'s loss is minus the mean advantage, 0 in each
group; its gradient is not 0. The loss says nothing about progress; the reward does.

The family changes one thing each:
                                                       advantage                      mean over
    grpo       the beginning                           (r - mean) / (std + 1e-4)      tokens of a response, responses
    dr_grpo    two biases taken out (2503.20783)       r - mean                       responses, sums / max_new_tokens
    dapo       long responses count in full, rises     as grpo                        all tokens
               are clipped later (2503.14476)
    gspo       one ratio per response (2507.18071)     as grpo                        responses
    rloo       unbiased (2402.14740)                   r - mean of the *other* G - 1  responses, sums; no ratio
    reinforce  no groups needed (Williams 1992)        r - mean of the other N - 1    responses, sums; no ratio

Dividing by the deviation makes prompts that are nearly always or nearly never solved count more than the reward says
(`grpo`'s bias of difficulty), and by a response's length makes long failures cheap. Without either, `dr_grpo`'s
expected gradient is the true one times 1 - 1/G (a baseline that holds the response itself), over a constant length.
"""

from __future__ import annotations

from typing import get_args

import torch

from auto_bot_tuner.grpo.config import WITHOUT_CLIP, Loss
from auto_bot_tuner.rlhf.loss import Metrics, named
from auto_bot_tuner.rlhf.ppo_loss import clipped_objective, kl_estimates, masked_mean, ratio_metrics

SCALED_BY_STD = ("grpo", "dapo", "gspo")
LEAVE_ONE_OUT = ("rloo", "reinforce")  # the baseline leaves out the response that it judges
# How far probabilities may fall and rise. DAPO (2503.14476, §4.1): unlikely tokens may rise further, which keeps the
# policy curious. GSPO (2507.18071, §5.1): its ratio is a mean over the response, and hardly moves.
CLIP_RANGES = {"dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4)}


# ---- advantages ----


def group_advantages(
    rewards: torch.Tensor, group_size: int, *, loss: str = "grpo", scale_by_std: bool | None = None
) -> torch.Tensor:
    r"""How much better each response was than was to be expected, by the member of the family.

    `rloo` compares with the mean of the others, $r_i - \frac{1}{G-1} \sum_{j \ne i} r_j$: a baseline that knows nothing
    of response i moves no expectation, so the gradient is the true one. A mean that holds r_i takes a share 1/G of each
    advantage away; that is dr_grpo's, and rloo's is it times G / (G - 1).
    `reinforce` takes the others of the *whole batch*, whatever their prompts: as unbiased, but noisier where prompts
    differ in difficulty. Pass all responses of a rollout together.

    Args:
        rewards: (N,), the responses to one prompt next to each other.
        group_size: G, responses to a prompt.
        loss: the member.
        scale_by_std: divide by the group's standard deviation (n - 1) plus 1e-4. None: as the member has it.

    Returns:
        (N,); exactly 0 in groups whose rewards are all equal.

    Raises:
        ValueError: an unknown member, groups that do not fill the batch, or nothing to compare with.
    """
    check_loss(loss)
    if len(rewards) % group_size or len(rewards) < 2 or (group_size < 2 and loss != "reinforce"):
        raise ValueError(f"{len(rewards)} rewards are no groups of {group_size} responses; a group needs two or more")
    size = len(rewards) if loss == "reinforce" else group_size
    groups = rewards.detach().float().view(-1, size)  # (groups, G)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if loss in LEAVE_ONE_OUT:
        advantages = advantages * size / (size - 1)  # r - mean of the others, since mean = r/G + (1 - 1/G) others
    if scale_by_std if scale_by_std is not None else loss in SCALED_BY_STD:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + 1e-4)
    # The mean of eight equal floats may differ from them by a rounding, which 1e-4 would make a small lesson of.
    return advantages.masked_fill(~has_spread(rewards, size)[:, None], 0).flatten()


def has_spread(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """(groups,) bool: not all responses to the prompt got the same reward, so there is something to learn.

    `reinforce` compares the whole batch: ask it with group_size = N.
    """
    groups = rewards.view(-1, group_size)
    return groups.amax(dim=1) > groups.amin(dim=1)


def overlong_penalty(lengths: torch.Tensor, max_new_tokens: int, buffer: int) -> torch.Tensor:
    """DAPO's soft punishment of long responses (2503.14476, eq. 13): a fall, where a cut would be a cliff.

    Args:
        lengths: (N,), tokens of the responses.
        max_new_tokens: the longest that is possible.
        buffer: the last so many tokens of it cost 1 / buffer each. 0: nothing costs.

    Returns:
        (N,) from 0 to 1, to be *subtracted* from the reward.
    """
    if buffer == 0:
        return torch.zeros_like(lengths, dtype=torch.float32)
    return ((lengths - (max_new_tokens - buffer)) / buffer).clamp(0, 1)


def rewards_with_kl(
    rewards: torch.Tensor, logprobs: torch.Tensor, reference_logprobs: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """(N,): rewards less beta times the divergence (k1) of each response, before it is compared: RLOO and REINFORCE.

    logprobs are those of writing. In the reward k1 is right, and counts what a token leads to later; in the loss its
    expected gradient is 0.
    """
    return rewards - beta * kl_estimates(logprobs, reference_logprobs, mask, "k1").sum(dim=1).detach()


# ---- the loss ----


def grpo_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    loss: str = "grpo",
    clip_ratio: float | None = None,
    clip_ratio_high: float | None = None,
    reference_logprobs: torch.Tensor | None = None,
    beta: float = 0.0,
    kl_kind: str = "k3",
    max_new_tokens: int | None = None,
) -> tuple[torch.Tensor, Metrics]:
    """The loss of N responses, by the member of the family that `loss` names. Weigh micro-batches by `loss_weight`.

    Args:
        logprobs: (N, R), with gradient. old_logprobs: (N, R), at the same temperature.
        advantages: (N,), or (N, R) one per token.
        mask: (N, R) bool. Rows without a token (left out, such as unfinished responses) do not count.
        clip_ratio, clip_ratio_high: how far probabilities may fall and rise; None: see `clip_range`.
        reference_logprobs: (N, R), where beta > 0.
        beta: weight of the divergence from the reference, by `kl_kind` (see `kl_term`).
        max_new_tokens: dr_grpo's constant length.

    Returns:
        The loss, and means over tokens: `clip_fraction`, `approx_kl`, `ratio`, `ratio_gap` (see `ratio_metrics`), and
        with beta `kl_loss`, the estimate that beta multiplies.

    Raises:
        ValueError: an unknown member; no reference for beta, or beta for a member that has it in the reward.
    """
    check_loss(loss)
    advantages = advantages.detach().view(len(mask), -1)  # (N, 1) or (N, R)
    log_ratio = (logprobs - old_logprobs).masked_fill(~mask, 0)  # (N, R)
    token_log_ratio = log_ratio
    if loss == "gspo":  # one ratio for the response, the geometric mean of its tokens': (pi / pi_old)^(1 / |y|)
        log_ratio = (log_ratio.sum(dim=1, keepdim=True) / token_counts(mask)[:, None]).expand_as(mask)

    if loss in WITHOUT_CLIP:
        losses, is_clipped = -advantages * logprobs, torch.zeros_like(mask)  # the policy gradient theorem as it stands
    else:
        losses, is_clipped = clipped_objective(log_ratio, advantages, *clip_range(loss, clip_ratio, clip_ratio_high))

    metrics = ratio_metrics(log_ratio, is_clipped, mask)
    if beta:
        if loss in WITHOUT_CLIP:
            raise ValueError(f"{loss} has its divergence in the reward: use rewards_with_kl, and beta = 0 here")
        if reference_logprobs is None:
            raise ValueError("beta > 0 compares with a reference: give reference_logprobs")
        kl = kl_term(logprobs, reference_logprobs, token_log_ratio, mask, kl_kind)
        losses = losses + beta * kl
        metrics["kl_loss"] = masked_mean(kl, mask)
    total = mean_over(losses, mask, loss, max_new_tokens)
    return total, named(loss=total, **metrics)


def clip_range(loss: str, clip_ratio: float | None, clip_ratio_high: float | None) -> tuple[float, float]:
    """How far probabilities may fall and rise before the push ends: as given, else as the member's paper has it.

    >>> clip_range("grpo", None, None), clip_range("dapo", 0.1, None), clip_range("grpo", 0.1, None)
    ((0.2, 0.2), (0.1, 0.28), (0.1, 0.1))
    """
    default_low, default_high = CLIP_RANGES.get(loss, (0.2, None))
    low = default_low if clip_ratio is None else clip_ratio
    return low, clip_ratio_high or default_high or low


def mean_over(losses: torch.Tensor, mask: torch.Tensor, loss: str, max_new_tokens: int | None) -> torch.Tensor:
    """What the members mean by "mean" of losses (N, R): sums per response, scaled, over `loss_weight`. A scalar.

    dapo's sums are divided by all tokens together: a long response weighs more, its tokens are pushed as hard as any.
    """
    sums = losses.masked_fill(~mask, 0).sum(dim=1)  # (N,)
    if loss in ("grpo", "gspo"):  # all responses alike: the tokens of a long one are pushed less
        sums = sums / token_counts(mask)
    elif loss == "dr_grpo":  # a constant: only so does the length of a response not bend its gradient
        if max_new_tokens is None:
            raise ValueError("dr_grpo divides by a constant length: give max_new_tokens")
        sums = sums / max_new_tokens
    return sums.sum() / max(loss_weight(mask, loss), 1)


def loss_weight(mask: torch.Tensor, loss: str) -> int:
    """What a micro-batch weighs in its optimiser step: tokens for dapo, responses (that have tokens) for the others.

    With w_i the weights and W their sum, sum_i w_i / W L_i is the loss of the whole batch, however it was cut (tested).
    """
    return int(mask.sum() if loss == "dapo" else mask.any(dim=1).sum())


def kl_term(
    logprobs: torch.Tensor, reference_logprobs: torch.Tensor, log_ratio: torch.Tensor, mask: torch.Tensor, kind: str
) -> torch.Tensor:
    r"""(N, R): the divergence from the reference, in a form that may stand in a loss.

    What counts is its gradient, in expectation over tokens that $\pi_{old}$ sampled; $d = \log \pi - \log \pi_{ref}$:

        k2        $\rho \, d^2 / 2$, ρ detached: gradient ρ d ∇log π, that of KL(π || π_ref)
        k3        $\rho \, (e^{-d} - 1 + d)$, ρ *not* detached: its expectation is the KL, so is its gradient
        k3_plain  $e^{-d} - 1 + d$, as the GRPO paper (2402.03300, eq. 4) and TRL have it: at the first step the
                  gradient of KL(π_ref || π), another one, though it vanishes in the same place

    At the tokens that stand there: what a token leads to later is left to the advantages.
    """
    match kind:
        case "k2":
            return log_ratio.detach().exp() * kl_estimates(logprobs, reference_logprobs, mask, "k2")
        case "k3":
            return log_ratio.exp() * kl_estimates(logprobs, reference_logprobs, mask, "k3")
        case "k3_plain":
            return kl_estimates(logprobs, reference_logprobs, mask, "k3")
        case _:
            raise ValueError(f"kl_kind {kind!r} is none of k2, k3, k3_plain")


def token_counts(mask: torch.Tensor) -> torch.Tensor:
    """(N,): tokens of each response, 1 where there is none: nothing divided by something stays nothing."""
    return mask.sum(dim=1).clamp(min=1)


def check_loss(loss: str) -> None:
    if loss not in get_args(Loss):
        raise ValueError(f"loss {loss!r} is none of {', '.join(get_args(Loss))}")
