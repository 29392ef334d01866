"""PPO's arithmetic by its papers: one response at a time, over its real tokens."""

from __future__ import annotations

import math

from proof.cases import lines
from proof.claims import Case
from proof.oracles.arithmetic import clip, mean


def valid(case: Case, name: str) -> list[float]:
    """The real tokens of all responses, one after the other."""
    return [x for line in lines(case[name], case["lengths"]) for x in line]


def padded(rows: list[list[float]], case: Case) -> list[list[float]]:
    """With 0 under padding, as tensors come."""
    width = len(case["mask"][0])
    return [row + [0.0] * (width - len(row)) for row in rows]


def masked_mean(case: Case) -> float:
    return mean(valid(case, "x"))


def masked_variance(case: Case) -> float:
    x = valid(case, "x")
    return mean([(value - mean(x)) ** 2 for value in x])


def whiten(case: Case) -> list[list[float]]:
    centre, deviation = masked_mean(case), math.sqrt(masked_variance(case) + 1e-8)
    back = 0.0 if case["shift_mean"] else centre
    rows = [[(x - centre) / deviation + back for x in line] for line in lines(case["x"], case["lengths"])]
    return padded(rows, case)


def explained_variance(case: Case) -> float:
    returns, values = valid(case, "returns"), valid(case, "values")
    left = [r - v for r, v in zip(returns, values, strict=True)]
    spread, unexplained = (mean([(x - mean(xs)) ** 2 for x in xs]) for xs in (returns, left))
    return 1 - unexplained / spread if spread > 0 else 0.0


def estimate(kind: str, d: float) -> float:
    return {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[kind]


def kl_estimates(case: Case) -> list[list[float]]:
    both = zip(*(lines(case[name], case["lengths"]) for name in ("logprobs", "reference_logprobs")), strict=True)
    rows = [[estimate(case["kind"], p - q) for p, q in zip(*pair, strict=True)] for pair in both]
    return padded(rows, case)


def token_rewards(case: Case) -> list[list[float]]:
    rows = []
    for row, divergence in enumerate(kl_estimates({**case, "kind": "k1"})):
        length = case["lengths"][row]
        rewards = [-case["kl_coefficient"] * nats for nats in divergence[:length]]
        rewards[length - 1] += case["scores"][row]
        rows.append(rewards)
    return padded(rows, case)


def gae(case: Case) -> list[list[list[float]]]:
    """The double sum of 1506.02438, eq. 16: for each token over all that follow."""
    gamma, lam = case["gamma"], case["lam"]
    advantages = []
    for r, v in zip(*(lines(case[name], case["lengths"]) for name in ("rewards", "values")), strict=True):
        after = [*v[1:], 0.0]
        delta = [r[t] + gamma * after[t] - v[t] for t in range(len(r))]
        advantages.append([sum((gamma * lam) ** (u - t) * delta[u] for u in range(t, len(r))) for t in range(len(r))])
    values = lines(case["values"], case["lengths"])
    returns = [[a + v for a, v in zip(*pair, strict=True)] for pair in zip(advantages, values, strict=True)]
    return [padded(advantages, case), padded(returns, case)]


def clipped(advantage: float, log_ratio: float, low: float, high: float) -> float:
    ratio = math.exp(log_ratio)
    return max(-advantage * ratio, -advantage * clip(ratio, 1 - low, 1 + high))


def policy_loss(case: Case) -> float:
    names = ("token_advantages", "logprobs", "old_logprobs")
    tokens = zip(*(valid(case, name) for name in names), strict=True)
    return mean([clipped(a, new - old, case["clip_ratio"], case["clip_ratio_high"]) for a, new, old in tokens])


def ratio_metrics(case: Case) -> dict[str, float]:
    """How far new and old are apart, and how many tokens have stopped pushing."""
    ratios = [math.exp(n - o) for n, o in zip(valid(case, "logprobs"), valid(case, "old_logprobs"), strict=True)]
    low, high = 1 - case["clip_ratio"], 1 + case["clip_ratio_high"]
    pushes = zip(ratios, valid(case, "token_advantages"), strict=True)
    return {
        "clip_fraction": mean([float((a > 0 and ratio > high) or (a < 0 and ratio < low)) for ratio, a in pushes]),
        "approx_kl": mean([ratio - 1 - math.log(ratio) for ratio in ratios]),
        "ratio": mean(ratios),
        "ratio_gap": mean([abs(ratio - 1) for ratio in ratios]),
    }


def value_loss(case: Case) -> float:
    losses = []
    names = ("values", "old_values", "returns")
    for v, old, target in zip(*(valid(case, name) for name in names), strict=True):
        c = case["value_clip"]
        near = old + clip(v - old, -c, c) if c else v
        losses.append(0.5 * max((v - target) ** 2, (near - target) ** 2))
    return mean(losses)


def value_metrics(case: Case) -> dict[str, float]:
    """Tokens that the clip holds back: moved beyond it, and worse off for it. And the share of variance explained."""
    held, c = [], case["value_clip"]
    names = ("values", "old_values", "returns")
    for v, old, target in zip(*(valid(case, name) for name in names), strict=True):
        near = old + clip(v - old, -c, c)
        held.append(float(c > 0 and abs(v - old) > c and abs(near - target) > abs(v - target)))
    return {
        "value_loss": value_loss(case),
        "value_clip_fraction": mean(held),
        "explained_variance": explained_variance(case),
    }


def entropy_bonus(case: Case) -> float:
    return -case["coefficient"] * mean(valid(case, "entropies"))


def controller(case: Case) -> list[float]:
    """Ziegler et al., §2.2: e within ±0.2, beta times 1 + e n / horizon."""
    beta, path = case["coefficient"], []
    for kl in case["divergences"]:
        error = clip(kl / case["target"] - 1, -0.2, 0.2)
        beta *= 1 + error * case["n"] / case["horizon"]
        path.append(beta)
    return path


def running_deviation(case: Case) -> float:
    """Of all values together, as of a population."""
    values = [x for batch in case["batches"] for x in batch]
    return math.sqrt(mean([(x - mean(values)) ** 2 for x in values]))
