"""What is said when a run is done: what it came to, where its files are, and what to do next, as commands to copy."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.strict_yaml import read_yaml

WORLD = (
    "tiny-instructions",
    "tiny-preferences",
    "tiny-prompts",
)  # its data sets go on where one of them was trained on
# After each method what makes sense next: why, and the command. {final} is the trained model, {base} what it came from,
# {data} its rows; {pairs} and {prompts} the bundled ones of the same world, else a word to replace.
COMPARE = ("compare it with the model before", "evaluate compare --models {base} {final} --dataset {data}")
NEXT = {
    "sft": (
        COMPARE,
        ("teach it what people prefer (DPO)", "train-dpo --model {final} --dataset {pairs}"),
        ("or train a reward model from it", "train-reward --model {final} --dataset {pairs}"),
    ),
    "reward": (
        ("let a policy learn from it", "train-ppo --model SFT_MODEL --reward-model {final} --dataset {prompts}"),
    ),
    "dpo": (
        COMPARE,
        ("how often does it win", "evaluate winrate --model {final} --against {base} --judge REWARD_MODEL"),
    ),
    "ppo": (
        COMPARE,
        ("look for a reward that was gamed", "inspect --method ppo --model {final} --dataset {data} {reward}"),
    ),
    "grpo": (
        COMPARE,
        ("look at its groups of answers", "inspect --method grpo --model {final} --dataset {data} {reward}"),
    ),
}


def closing_words(summary: dict[str, Any], use: str, shown: Sequence[str]) -> str:
    """What a run came to, and what to do with it."""
    figures = "".join(
        f", evaluation {name} {summary[f'eval_{name}']:.4f}" for name in shown if f"eval_{name}" in summary
    )
    steps = "step" if summary["steps"] == 1 else "steps"
    skipped = int(summary.get("skipped_steps", 0))
    if skipped == summary["steps"]:
        figures += ". Every step was skipped, there was nothing to learn from: the model is what it was"
    elif skipped:
        figures += f"; of the steps {skipped:,} had nothing to learn from and left the model as it was"
    return "\n".join(
        [
            f"Trained {summary['steps']:,} {steps}, {summary['tokens']:,} tokens in {summary['seconds']:.0f} s "
            f"({summary['tokens_per_second']:,.0f} tokens/s){figures}.",
            f"The model is in {summary['final']}; {use.format(summary['final'])}",
            *report_line(Path(summary["final"]).parent),
        ]
    )


def report_line(folder: Path) -> list[str]:
    """Where the report of a run is, if one was written."""
    report = folder / "report.html"
    return [f"The report is in {report}; open it in a browser"] if report.is_file() else []


def next_steps(final: Path) -> list[str]:
    """Commands that make sense after the run whose model is in `final`."""
    try:
        config = read_yaml(final.parent / "config.yaml")
        method, base, data = config["method"], config["model"]["name"], config["dataset"].get("name", "")
        training = config["training"]
    except (UserError, KeyError, TypeError, AttributeError):  # a run that no command started
        return []
    is_world = data in WORLD
    words = {
        "final": shlex.quote(str(final)),
        "base": shlex.quote(base),
        "data": shlex.quote(data) if data else "DATA",
        "pairs": "tiny-preferences" if is_world else "PAIRS",
        "prompts": "tiny-prompts" if is_world else "PROMPTS",
        "reward": reward_flags(training),
    }
    told = [(why, command.format(**words).strip()) for why, command in NEXT.get(method, ())]
    return ["Next:", *(line for why, command in told for line in (f"  {why}:", f"    python main.py {command}"))]


def reward_flags(training: dict[str, Any]) -> str:
    """The rewards of a run as flags."""
    given = {"--reward-model": training.get("reward_model"), "--reward": training.get("reward")}
    return " ".join(shlex.join([flag, *names]) for flag, names in given.items() if names)
