r"""What a rollout looks like in numbers: rewards, divergence, lengths, advantages; for the log and for `health.py`.

A response is a sample, so most figures are means over responses. Divergence from the reference is estimated twice from
the same tokens, which the old policy sampled (Schulman 2020, "Approximating KL divergence"):

    $$ k_1 = \log \pi_{old} - \log \pi_{ref}, \qquad k_3 = e^{-k_1} - 1 + k_1 $$

Both have the expectation KL(pi_old || pi_ref). k1 is what the reward pays for and may come out negative in a small
sample; k3 never does, and is the calmer of the two where the models are close. Where they disagree by much, a few
tokens of very different probability decide, and neither should be trusted.

What stands under padding is never read, whatever it is: even nan.
"""

from __future__ import annotations

import torch

from auto_bot_tuner.rollouts.rollout import Rollout


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """The statistics of one rollout, as far as its six steps have got: what is not there yet is left out.

    Returns:
        `reward`, `reward_std`: scores as the sources gave them, neither clipped nor penalised; `reward_<name>`: each
        source alone, unweighted. `reward_shaped`: what a response earns in all, KL included. `response_length` in
        tokens; `eos_rate`: share that ended by themselves. `kl`, `kl_k3` in nats a response, `kl_per_token`.
        `group_std`: mean over prompts of the scores' standard deviation (n - 1), `groups_without_spread`: share of
        prompts whose responses all got the same score; both with 2 samples or more. `advantage_std` over tokens,
        before whitening where values tell. `value`: its mean over tokens; `explained_variance`:
        1 - var(returns - values) / var(returns), 1 is clairvoyant, 0 no better than a constant, less is harmful
        (0 as well where the returns have no variance: nothing was there to explain).
    """
    mask, lengths = rollout.mask, rollout.lengths
    metrics = {"response_length": lengths.float().mean(), "eos_rate": rollout.ended.float().mean()}
    if len(rollout.scores):
        raw = rollout.scores if rollout.raw_scores is None else rollout.raw_scores  # (N,)
        metrics |= {f"reward_{name}": component.float().mean() for name, component in rollout.components.items()}
        metrics |= {"reward": raw.float().mean(), "reward_std": raw.float().std(correction=0)}
        if rollout.samples > 1:
            metrics |= spread(rollout.scores, rollout.samples)
    if rollout.reference_logprobs is not None:
        k1 = real(rollout.logprobs, mask) - real(rollout.reference_logprobs, mask)  # (N, R)
        k3 = torch.expm1(-k1) + k1  # expm1: e^x - 1 would lose its digits near 0
        metrics |= {"kl": k1.sum(dim=1).mean(), "kl_k3": k3.sum(dim=1).mean()}
        metrics["kl_per_token"] = k1.sum() / lengths.sum().clamp(min=1)
    if rollout.rewards is not None:
        metrics["reward_shaped"] = real(rollout.rewards, mask).sum(dim=1).mean()
    if rollout.values is not None and rollout.returns is not None:
        metrics |= foresight(rollout.values[mask].float(), rollout.returns[mask].float())
    elif rollout.advantages is not None:
        metrics["advantage_std"] = rollout.advantages[mask].float().std(correction=0)
    return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))  # one wait for the GPU


def real(per_token: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, R), float32, 0 under padding. Selected, not multiplied: nan times 0 is nan."""
    return torch.where(mask, per_token.float(), 0.0)


def spread(scores: torch.Tensor, samples: int) -> dict[str, torch.Tensor]:
    """How far the responses to one prompt differ in the scores (N,) that advantages are made of."""
    groups = scores.float().view(-1, samples)  # (prompts, samples)
    is_flat = groups.amax(dim=1) == groups.amin(dim=1)
    return {"group_std": groups.std(dim=1).mean(), "groups_without_spread": is_flat.float().mean()}


def foresight(values: torch.Tensor, returns: torch.Tensor) -> dict[str, torch.Tensor]:
    """How well the value network saw the returns coming. Both 1-D: the valid tokens of the rollout."""
    advantages = returns - values  # before whitening, after which their deviation is 1 whatever happens
    of_advantages, of_returns = advantages.var(correction=0), returns.var(correction=0)
    explained = torch.where(of_returns > 0, 1 - of_advantages / of_returns, 0.0)
    return {"value": values.mean(), "explained_variance": explained, "advantage_std": of_advantages.sqrt()}
