"""Cross-entropy, log-probabilities and sampling by definition: one token at a time."""

from __future__ import annotations

import math
from itertools import pairwise

from proof.claims import Case
from proof.oracles.arithmetic import log_softmax, mean


def trained(case: Case) -> list[tuple[list[float], int]]:
    """Each trained token with the logits that predict it: those one position before."""
    return [
        (logits, label)
        for row, labels in zip(case["logits"], case["labels"], strict=True)
        for logits, label in zip(row[:-1], labels[1:], strict=True)
        if label != -100
    ]


def nll(case: Case) -> float:
    return mean([-log_softmax(logits)[label] for logits, label in trained(case)])


def sft_metrics(case: Case) -> dict[str, float]:
    loss = nll(case)
    hits = [float(max(logits) == logits[label]) for logits, label in trained(case)]
    return {"loss": loss, "perplexity": math.exp(loss), "accuracy": mean(hits), "num_tokens": len(hits)}


def head(case: Case) -> list[tuple[list[float], int]]:
    """Of each hidden state its logits, multiplied out and divided by the temperature, and its target."""
    heat = case.get("temperature", 1.0)
    states = [
        [math.fsum(h * w for h, w in zip(x, row, strict=True)) / heat for row in case["weight"]] for x in case["hidden"]
    ]
    return list(zip(states, case["targets"], strict=True))


def summed_nll(case: Case) -> float:
    return math.fsum(-log_softmax(logits)[target] for logits, target in head(case))


def logprobs_and_entropies(case: Case) -> list[float]:
    found = [(log_softmax(logits), target) for logits, target in head(case)]
    entropies = [-math.fsum(math.exp(x) * x for x in logprobs) for logprobs, _ in found]
    return [logprobs[target] for logprobs, target in found] + entropies


def filtered(case: Case) -> list[list[float]]:
    """softmax(z / T) of the tokens that top-k and top-p leave, renormalised."""
    return [distribution(row, case) for row in case["logits"]]


def distribution(logits: list[float], case: Case) -> list[float]:
    warm = [z / case["temperature"] for z in logits]
    if case["top_k"]:
        kth = sorted(warm, reverse=True)[min(case["top_k"], len(warm)) - 1]
        warm = [z if z >= kth else -math.inf for z in warm]
    probabilities = [math.exp(x) for x in log_softmax(warm)]
    if case["top_p"] < 1:
        kept, mass = set(), 0.0
        for token in sorted(range(len(warm)), key=lambda i: -probabilities[i]):
            if mass < case["top_p"]:  # the first one always
                kept.add(token)
            mass += probabilities[token]
        probabilities = [p if i in kept else 0.0 for i, p in enumerate(probabilities)]
    total = math.fsum(probabilities)
    return [p / total for p in probabilities]


def windows_once(tokens: int, width: int) -> list[int]:
    """How much context each token of a text has that is read through a window sliding by half its width."""
    step = max(1, width // 2)
    starts = [0]
    while starts[-1] + width < tokens:
        starts.append(starts[-1] + step)
    seen, context = 0, []
    for start in starts:
        end = min(start + width, tokens)
        context += [place - start for place in range(seen, end)]
        seen = end
    return context


def distances(points: list[float]) -> list[float]:
    return [b - a for a, b in pairwise(points)]
