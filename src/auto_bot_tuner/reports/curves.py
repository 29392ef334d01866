"""Which curves a method has, in which order one looks at them, and what each should do (docs/*.md, in a sentence)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from auto_bot_tuner.reports.drawing import Line, Plot, plot
from auto_bot_tuner.reports.run_files import EVAL, RunFiles, is_number

METHODS = {
    "sft": "Supervised fine-tuning",
    "reward": "Reward model",
    "dpo": "Direct preference optimisation",
    "ppo": "Proximal policy optimisation (RLHF)",
    "grpo": "Group-relative policy optimisation",
}
WORK = ("grad_norm", "learning_rate", "tokens_per_second")
WRITTEN = ("kl", "entropy", "clip_fraction")
# What to look at first; whatever else was logged follows under "all other curves".
FIRST = {
    "sft": ("loss", "accuracy", "perplexity", *WORK),
    "reward": ("loss", "accuracy", "reward_margin", *WORK),
    "dpo": ("loss", "accuracy", "reward_margin", "chosen_logprobs", "rejected_logprobs", "kl", *WORK),
    "ppo": ("reward", *WRITTEN, "explained_variance", "response_length", *WORK),
    "grpo": ("reward", "groups_without_spread", *WRITTEN, "response_length", *WORK),
}
TITLES = {
    "loss": "Loss",
    "accuracy": "Accuracy",
    "perplexity": "Perplexity",
    "reward": "Reward",
    "reward_margin": "Reward margin",
    "chosen_logprobs": "Chosen answers",
    "rejected_logprobs": "Rejected answers",
    "kl": "KL from the reference",
    "entropy": "Entropy",
    "clip_fraction": "Clip fraction",
    "explained_variance": "Explained variance",
    "response_length": "Response length",
    "groups_without_spread": "Groups without spread",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "tokens_per_second": "Speed",
    "eos_rate": "Answers that end",
}
SHOULD = {
    "loss": "Falls fast for some dozen steps, then slowly. Evaluation should fall with it: where that rises while "
    "training falls, the rows are being memorised.",
    "accuracy": "Rises a little later than the loss falls.",
    "perplexity": "e to the loss: the number of equally likely words that would puzzle the model as much. Falls.",
    "reward": "Rises, then flattens: the curve of reinforcement learning. Training alone rising means that the prompts "
    "are remembered.",
    "reward_margin": "Grows from 0, then flattens. Growing without end means over-sure.",
    "chosen_logprobs": "Their log-probability. Stays, or falls by little. A steady fall is likelihood "
    "displacement: good answers lose probability too.",
    "rejected_logprobs": "Their log-probability falls.",
    "chosen_rewards": "Above the rejected ones; the distance is the margin.",
    "rejected_rewards": "Below the chosen ones; the distance is the margin.",
    "length_accuracy": "What preferring the longer answer would reach: accuracy must be clearly above it.",
    "sft_loss": "Stays or falls: the chosen answers are not forgotten.",
    "kl": "Starts at 0 and grows slowly, in nats a response. A leap means too large a learning rate, or too little "
    "hold on the reference.",
    "kl_k3": "A second estimate of the KL: it should agree with the first roughly.",
    "entropy": "Falls slowly, in nats a token. A collapse means that the policy has stopped trying other words.",
    "clip_fraction": "Small: 1 to 20 % where a rollout is used several times, 0 where it is used once. From 30 % on, "
    "the policy outruns what it learns from.",
    "approx_kl": "How far the policy moved from the one that wrote the responses: 0 at first, then little.",
    "explained_variance": "From 0 towards 1: the value network foresees the reward. Below 0 it adds noise.",
    "response_length": "As the task needs. Growing to the limit means that the reward pays for length.",
    "eos_rate": "Near 100 %: an answer that is cut scores for half a sentence.",
    "groups_without_spread": "Well below 80 %: where all answers of a group score alike there is nothing to compare.",
    "group_std": "Above 0: the spread within a group is what GRPO learns from.",
    "skipped_steps": "0, or few: steps in which there was nothing to learn.",
    "policy_loss": "About 0 over the first pass of a rollout. It says nothing; its gradient does.",
    "value_loss": "Falls while the value network learns what to expect.",
    "reward_shaped": "The reward less the price of the KL. Falling while the reward rises means paying more than it "
    "earns.",
    "ratio_gap": "Rounding only: the policy gives its own fresh responses the probabilities it wrote them with.",
    "grad_norm": "Settles. Spikes are a broken row, or too large a learning rate.",
    "learning_rate": "Warms up, then follows its schedule: as it was set, not as it was learnt.",
    "tokens_per_second": "Tokens a second: level. Falling means that the machine has other work.",
    "writing_tokens_per_second": "Writing is mostly the largest part of a step.",
}
BY_METHOD = {
    ("sft", "accuracy"): "Share of trained tokens that the model ranks first. Rises a little later than the loss "
    "falls.",
    ("reward", "loss"): "Starts near ln 2 = 0.69, a coin's, and falls. Evaluation that rises while its accuracy "
    "stands means over-sure of its mistakes.",
    ("reward", "accuracy"): "Pairs ranked right: leaves 50 %. On real preferences 60 to 75 % is normal, since people "
    "agree no more than that.",
    ("dpo", "loss"): "Starts at ln 2 = 0.69 (plus the SFT term, where there is one) and falls. It sees differences "
    "only: read the answers too.",
    ("dpo", "accuracy"): "Pairs whose chosen answer gained more: rises from 50 %, then flattens.",
    ("grpo", "loss"): "About 0: the advantages of a group add up to 0. It says nothing.",
    ("ppo", "loss"): "No measure of success: policy and value loss together. Look at the reward.",
}


class Curve(NamedTuple):
    """A chart with its words."""

    name: str
    title: str
    plot: Plot
    should: str
    has_evaluation: bool


def curves_of(run: RunFiles) -> tuple[list[Curve], list[Curve]]:
    """What to look at first, and the rest."""
    names = names_of([run])
    first = [name for name in FIRST.get(run.method, ("loss", "reward", "accuracy", *WORK)) if name in names]
    made = {name: curve_of(name, run.method, lines_of(run, name)) for name in names}
    return (
        [curve for name in first if (curve := made[name])],
        [curve for name in names if name not in first and (curve := made[name])],
    )


def names_of(runs: Sequence[RunFiles]) -> list[str]:
    """Metrics of these runs, the usual order first; those that never say anything new are left out."""
    logged = {
        key.removeprefix(EVAL): None
        for run in runs
        for row in run.metrics
        for key, value in row.items()
        if key not in ("step", "epoch") and is_number(value)
    }
    usual = [name for method in FIRST.values() for name in method]
    return list(dict.fromkeys([name for name in usual if name in logged] + list(logged)))


def lines_of(run: RunFiles, name: str) -> list[Line]:
    return [
        Line("training", run.points(name), "train"),
        Line("evaluation", run.points(name, evaluated=True), "eval", has_dots=True),
    ]


def curve_of(name: str, method: str, lines: Sequence[Line]) -> Curve | None:
    title = TITLES.get(name, name.replace("_", " ").capitalize())
    drawn = plot(name, title, lines, landmark(name, method))
    if drawn is None:
        return None
    has_evaluation = any(line.style == "eval" and line.points for line in lines)
    return Curve(name, drawn.title, drawn, BY_METHOD.get((method, name)) or SHOULD.get(name, ""), has_evaluation)


def landmark(name: str, method: str) -> tuple[float, str] | None:
    """A level that means something, by its name."""
    if name == "accuracy" and method in ("reward", "dpo"):
        return 0.5, "a coin"
    if name == "loss" and method == "reward":
        return math.log(2), "ln 2"
    if name == "explained_variance":
        return 0.0, "a constant"
    return None
