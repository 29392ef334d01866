"""What the demo measures of each stage. How it is shown: `demo_tables.py` on a terminal, `demo_story.py` on a page.

Truth is computable in the bundled world, so beside each learned number stands the true one: the reward model's score
beside the gold score, the win rate beside the accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auto_bot_tuner.evaluation.accuracy import AccuracyReport
    from auto_bot_tuner.evaluation.intervals import Share
    from auto_bot_tuner.evaluation.win_rates import WinRate

Row = dict[str, Any]

MAX_NEW_TOKENS = 64  # longer than any answer of this world
TEMPERATURES = {"greedy": 0.0, "temperature 1": 1.0}
START = "sft"  # what later stages start from and are compared with


@dataclass
class Result:
    """What a stage came to. A figure that the stage does not have stays None."""

    name: str
    seconds: float  # of making it
    report: AccuracyReport | None = None  # of its greedy answers
    gold: dict[str, list[float]] = field(default_factory=dict)  # greedy, temperature 1 → gold score of each answer
    wins: dict[str, WinRate] = field(default_factory=dict)  # by gold score, over the SFT model
    kl: float | None = None  # from the SFT model, nats a response
    reward: float | None = None  # mean learned score of its greedy answers
    pairs: dict[str, Share] = field(default_factory=dict)  # kind of pair → ranked right, of a stage that scores
    puzzles: dict[str, Share] = field(default_factory=dict)  # greedy, temperature 1 → held-out puzzles answered right

    def as_json(self) -> dict[str, Any]:
        figures: dict[str, Any] = {"name": self.name, "seconds": round(self.seconds, 1)}
        if self.report is not None:
            figures |= {
                "accuracy": self.report.overall.value,
                "ended": self.report.ended.value,
                "prompts": self.report.overall.n,
                "gold": fmean(self.gold["greedy"]),
                "gold_sampled": fmean(self.gold["temperature 1"]),
                "tasks": {task: share.value for task, share in self.report.by_task.items()},
            }
        if self.wins:
            figures |= {"win_rate": self.wins["greedy"].rate, "win_rate_sampled": self.wins["temperature 1"].rate}
        figures |= {name: value for name, value in (("kl", self.kl), ("reward", self.reward)) if value is not None}
        if self.pairs:
            figures["pairs"] = {kind: share.value for kind, share in self.pairs.items()}
        if self.puzzles:
            right = {how: share.value for how, share in self.puzzles.items()}
            figures |= {"puzzles": right["greedy"], "puzzles_sampled": right["temperature 1"]}
        return figures


def measure_answers(result: Result, models: Mapping[str, str], rows: list[Row], earlier: list[Result]) -> None:
    """Ask the stage's model every held-out question, greedily and at temperature 1; the gold scorer judges."""
    from auto_bot_tuner.assets.gold import gold_score, is_correct
    from auto_bot_tuner.evaluation import GenerationConfig
    from auto_bot_tuner.evaluation.accuracy import evaluate_accuracy
    from auto_bot_tuner.evaluation.divergence import mean_kl
    from auto_bot_tuner.evaluation.win_rates import outcomes_of_scores, win_rate
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    model, tokenizer, _ = load_model_and_tokenizer(models[result.name], frozen=True)
    start = next((other for other in earlier if other.name == START), None)
    for how, temperature in TEMPERATURES.items():
        config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, temperature=temperature)
        report = evaluate_accuracy(model, tokenizer, rows, is_correct, config)
        result.report = result.report or report  # the greedy one comes first
        scores = [gold_score(row, said.text, said.ended) for row, said in zip(rows, report.responses, strict=True)]
        result.gold[how] = scores
        if start is not None:
            result.wins[how] = win_rate(outcomes_of_scores(scores, start.gold[how]))
    if start is not None:
        reference, _, _ = load_model_and_tokenizer(models[START], frozen=True)
        result.kl = mean_kl(reference, tokenizer, conversations(report.prompts), report.responses)


def measure_puzzles(result: Result, models: Mapping[str, str], rows: list[Row]) -> None:
    """How many of the held-out puzzles the stage's model solves, greedily and at temperature 1."""
    from auto_bot_tuner.assets.gold import is_correct
    from auto_bot_tuner.evaluation import GenerationConfig
    from auto_bot_tuner.evaluation.accuracy import evaluate_accuracy
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    model, tokenizer, _ = load_model_and_tokenizer(models[result.name], frozen=True)
    for how, temperature in TEMPERATURES.items():
        config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, temperature=temperature)
        result.puzzles[how] = evaluate_accuracy(model, tokenizer, rows, is_correct, config).overall


def measure_scores(result: Result, models: Mapping[str, str], pairs: list[Row]) -> None:
    """Let the reward model rank held-out pairs."""
    from auto_bot_tuner.assets.preferences import CORRECTNESS
    from auto_bot_tuner.evaluation.intervals import share_won
    from auto_bot_tuner.rlhf.reward_model import load_reward_model
    from auto_bot_tuner.rlhf.scoring import score_responses

    model, tokenizer, _ = load_reward_model(models[result.name])
    asked = conversations([pair["prompt"] for pair in pairs])
    chosen, rejected = (
        score_responses(model, tokenizer, asked, [pair[side] for pair in pairs]) for side in ("chosen", "rejected")
    )
    kinds: dict[str, list[float]] = {}
    for pair, better, worse in zip(pairs, chosen, rejected, strict=True):
        is_about_truth = pair["category"] in CORRECTNESS
        for kind in ("all", *["right against wrong"] * is_about_truth, pair["category"]):
            kinds.setdefault(kind, []).append(better - worse)
    result.pairs = {kind: share_won(margins) for kind, margins in kinds.items()}
    result.pairs["length alone"] = share_won([len(pair["chosen"]) - len(pair["rejected"]) for pair in pairs])


def reward_of_answers(results: list[Result], models: Mapping[str, str]) -> None:
    """The learned score of every stage's answers, as soon as there is a reward model."""
    if "reward" not in models:
        return
    from auto_bot_tuner.rlhf.reward_model import load_reward_model
    from auto_bot_tuner.rlhf.scoring import score_responses

    model, tokenizer, _ = load_reward_model(models["reward"])
    for result in results:
        if result.report is not None and result.reward is None:
            said = result.report.responses
            texts, ended = [response.text for response in said], [response.ended for response in said]
            asked = conversations(result.report.prompts)
            result.reward = fmean(score_responses(model, tokenizer, asked, texts, ended=ended))


def conversations(prompts: Sequence[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": prompt}] for prompt in prompts]
