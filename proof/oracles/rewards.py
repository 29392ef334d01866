"""Reward losses by their papers: one judgement at a time."""

from __future__ import annotations

from proof.claims import Case
from proof.oracles.arithmetic import log_sigmoid, mean


def judgement(better: float, worse: float, margin: float, case: Case) -> float:
    e, h = case.get("label_smoothing", 0.0), better - worse - margin
    return -(1 - e) * log_sigmoid(h) - e * log_sigmoid(-h) + case.get("centering", 0.0) * (better + worse) ** 2


def ranking(case: Case) -> float:
    margins = case.get("margin", [0.0] * len(case["chosen"]))
    return mean([judgement(*pair, case) for pair in zip(case["chosen"], case["rejected"], margins, strict=True)])


def kwise(case: Case) -> float:
    """All pairs of each ranking; each prompt weighs once. Ties of the data say nothing."""
    of_prompts = []
    for prompt in sorted(set(case["group"])):
        rows = [i for i, g in enumerate(case["group"]) if g == prompt]
        losses = [
            judgement(case["rewards"][i], case["rewards"][j], 0.0, case)
            for place, i in enumerate(rows)
            for j in rows[place + 1 :]
            if case["scores"][i] != case["scores"][j]
        ]
        of_prompts.append(mean(losses))
    return mean(of_prompts)


def regression(case: Case) -> float:
    of_prompts = []
    for prompt in sorted(set(case["group"])):
        rows = [i for i, g in enumerate(case["group"]) if g == prompt]
        of_prompts.append(mean([(case["rewards"][i] - case["scores"][i]) ** 2 for i in rows]))
    return mean(of_prompts)


def regression_metrics(case: Case) -> dict[str, float]:
    """Each a mean over prompts of means over their responses."""
    found: dict[str, list[float]] = {"absolute_error": [], "mean_reward": [], "score_variance": []}
    for prompt in sorted(set(case["group"])):
        rows = [(r, s) for r, s, g in zip(case["rewards"], case["scores"], case["group"], strict=True) if g == prompt]
        found["absolute_error"].append(mean([abs(r - s) for r, s in rows]))
        found["mean_reward"].append(mean([r for r, _ in rows]))
        found["score_variance"].append(mean([s * s for _, s in rows]))
    return {name: mean(values) for name, values in found.items()}
