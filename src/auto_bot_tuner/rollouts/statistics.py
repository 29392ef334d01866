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

from auto_bot_tuner.grpo.loss import has_spread
from auto_bot_tuner.rlhf.ppo_loss import explained_variance, kl_estimates, masked_mean, masked_variance
from auto_bot_tuner.rollouts.rollout import Rollout


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """The statistics of one rollout, as far as its six steps have got: what is not there yet is left out.

    Returns:
        `reward`, `reward_std`: scores as the sources gave them, neither clipped nor penalised; `reward_<name>`: each
        source alone, unweighted. `reward_shaped`: what a response earns in all, KL included. `response_length` in
        tokens; `eos_rate`: share that ended by themselves. `kl`, `kl_k3` in nats a response, `kl_std` of k1 between
        responses, `kl_per_token`. `group_std`: mean over prompts of the scores' standard deviation (n - 1),
        `groups_without_spread`: share of prompts whose responses all got the same score; both with 2 samples or more.
        `advantage_std` over tokens, before whitening where values tell. `value`: its mean over tokens;
        `explained_variance`: 1 is clairvoyant, 0 no better than a constant, less is harmful.
    """
    mask = rollout.mask
    metrics = {"response_length": rollout.lengths.float().mean(), "eos_rate": rollout.ended.float().mean()}
    if len(rollout.scores):
        metrics |= of_scores(rollout)
    if rollout.reference_logprobs is not None:
        metrics |= of_divergence(rollout.logprobs, rollout.reference_logprobs, mask)
    if rollout.rewards is not None:
        metrics["reward_shaped"] = rollout.rewards.masked_fill(~mask, 0).sum(dim=1).mean()
    if rollout.values is not None and rollout.returns is not None:
        metrics["value"] = masked_mean(rollout.values, mask)
        metrics["explained_variance"] = explained_variance(rollout.values, rollout.returns, mask)
        # returns - values are the advantages before whitening, after which their deviation is 1 whatever happens.
        metrics["advantage_std"] = masked_variance(rollout.returns - rollout.values, mask).sqrt()
    elif rollout.advantages is not None:
        metrics["advantage_std"] = masked_variance(rollout.advantages, mask).sqrt()
    figures = torch.stack([value.to(mask.device) for value in metrics.values()])
    return dict(zip(metrics, figures.tolist(), strict=True))  # one wait for the GPU


def of_scores(rollout: Rollout) -> dict[str, torch.Tensor]:
    """Rewards per response, (N,) each, and how far they differ within the groups that are compared."""
    raw = rollout.scores if rollout.raw_scores is None else rollout.raw_scores
    metrics = {f"reward_{name}": component.float().mean() for name, component in rollout.components.items()}
    metrics |= {"reward": raw.mean(), "reward_std": raw.std(correction=0)}
    if rollout.samples > 1:
        metrics["group_std"] = rollout.scores.view(-1, rollout.samples).std(dim=1).mean()
        metrics["groups_without_spread"] = (~has_spread(rollout.scores, rollout.samples)).float().mean()
    return metrics


def of_divergence(
    logprobs: torch.Tensor, reference_logprobs: torch.Tensor, mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Both estimates of the divergence, from (N, R) log-probabilities."""
    k1, k3 = (kl_estimates(logprobs, reference_logprobs, mask, kind) for kind in ("k1", "k3"))  # (N, R)
    of_responses = k1.sum(dim=1)  # (N,)
    return {
        "kl": of_responses.mean(),
        "kl_std": of_responses.std(correction=0),
        "kl_k3": k3.sum(dim=1).mean(),
        "kl_per_token": masked_mean(k1, mask),
    }
