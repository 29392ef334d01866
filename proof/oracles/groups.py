"""GRPO's family by its papers: one group, one response, one token at a time."""

from __future__ import annotations

import math
import statistics

from proof.cases import lines
from proof.claims import Case
from proof.oracles.arithmetic import mean
from proof.oracles.policy import clipped

CLIP = {"grpo": (0.2, 0.2), "dr_grpo": (0.2, 0.2), "dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4)}  # of the papers


def advantages(case: Case) -> list[float]:
    """Of each response: what it got beyond its siblings, by the member `loss`."""
    rewards, loss = case["rewards"], case["loss"]
    size = len(rewards) if loss == "reinforce" else case["group_size"]
    found = []
    for start in range(0, len(rewards), size):
        group = rewards[start : start + size]
        for place, reward in enumerate(group):
            others = group[:place] + group[place + 1 :]
            if loss in ("rloo", "reinforce"):
                found.append(reward - mean(others))
            elif loss == "dr_grpo":
                found.append(reward - mean(group))
            else:
                found.append((reward - mean(group)) / (statistics.stdev(group) + 1e-4))
            if max(group) == min(group):
                found[-1] = 0.0
    return found


def divergence(kind: str, new: float, old: float, reference: float) -> float:
    """What stands in the loss for the KL; its ratio without gradient in k2 is the caller's matter."""
    d = new - reference
    k3 = math.exp(-d) - 1 + d
    return {"k3_plain": k3, "k3": math.exp(new - old) * k3}[kind]


def loss(case: Case) -> float:
    """The member's loss: for each response the losses of its tokens, then the member's mean."""
    member, beta = case["loss"], case.get("beta", 0.0)
    low, high = case.get("clip") or CLIP.get(member, (0.0, 0.0))
    names = ("logprobs", "old_logprobs", "reference_logprobs")
    sums, tokens = [], 0
    for row, (new, old, reference) in enumerate(
        zip(*(lines(case[name], case["lengths"]) for name in names), strict=True)
    ):
        a, total = case["advantages"][row], 0.0
        mean_log_ratio = mean([n - o for n, o in zip(new, old, strict=True)])
        for n, o, r in zip(new, old, reference, strict=True):
            if member in ("rloo", "reinforce"):
                total += -a * n
            else:
                total += clipped(a, mean_log_ratio if member == "gspo" else n - o, low, high)
            if beta:
                total += beta * divergence(case["kind"], n, o, r)
        tokens += len(new)
        sums.append(total / len(new) if member in ("grpo", "gspo") else total)
    if member == "dapo":
        return math.fsum(sums) / tokens
    return mean(sums) / (case["longest"] if member == "dr_grpo" else 1)


def overlong(case: Case) -> list[float]:
    """2503.14476, eq. 13, as a penalty."""
    longest, buffer = case["longest"], case["buffer"]
    found = []
    for length in case["tokens"]:
        if length <= longest - buffer:
            found.append(0.0)
        elif length <= longest:
            found.append(-((longest - buffer) - length) / buffer)
        else:
            found.append(1.0)
    return found


def rewards_with_kl(case: Case) -> list[float]:
    both = zip(*(lines(case[name], case["lengths"]) for name in ("logprobs", "reference_logprobs")), strict=True)
    nats = [math.fsum(p - q for p, q in zip(*pair, strict=True)) for pair in both]
    return [reward - case["beta"] * kl for reward, kl in zip(case["rewards"], nats, strict=True)]


def metrics(case: Case) -> dict[str, float]:
    """Means over all tokens: clipped or not, ratios (gspo's of whole responses), and the KL term."""
    member, found = case["loss"], []
    low, high = CLIP.get(member, (0.0, math.inf))
    names = ("logprobs", "old_logprobs", "reference_logprobs")
    for row, (new, old, reference) in enumerate(
        zip(*(lines(case[name], case["lengths"]) for name in names), strict=True)
    ):
        a = case["advantages"][row]
        mean_log_ratio = mean([n - o for n, o in zip(new, old, strict=True)])
        for n, o, r in zip(new, old, reference, strict=True):
            log_ratio = mean_log_ratio if member == "gspo" else n - o
            ratio = math.exp(log_ratio)
            is_clipped = member in CLIP and ((a > 0 and ratio > 1 + high) or (a < 0 and ratio < 1 - low))
            kl = divergence(case["kind"], n, o, r) if "kind" in case else 0.0
            found.append((float(is_clipped), ratio - 1 - log_ratio, ratio, abs(ratio - 1), kl))
    names = ("clip_fraction", "approx_kl", "ratio", "ratio_gap", "kl_loss")
    means = dict(zip(names, map(mean, zip(*found, strict=True)), strict=True))
    return means if "kind" in case else {name: means[name] for name in names[:4]}
