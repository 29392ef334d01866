"""What makes sense next, and why: rules over what is here."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from auto_bot_tuner.utils.inventory import RunFound, run_of_model
from commands.layers import origin
from src.menu.draft import Draft
from src.menu.stock import NAMES, Stock, short

MOST = 2  # proposals at a time: more are no advice


class Suggestion(NamedTuple):
    """A next step."""

    title: str
    why: str
    draft: Draft


def suggestions(stock: Stock, compared: Container[str] = ()) -> list[Suggestion]:
    """At most two next steps, the most useful first. `compared`: models that were looked at in this session."""
    found = [resume(run) for run in stock.resumable[:1]]
    found += pipeline(stock)
    newest = [run for run in stock.of("sft", "dpo", "ppo", "grpo") if run.model][:1]
    found += [compare(run) for run in newest if str(run.final) not in compared]
    return found[:MOST]


def pipeline(stock: Stock) -> list[Suggestion]:
    """The next stage of base → SFT → reward model and DPO → PPO → GRPO that is not here yet."""
    if not stock.finished:
        return [
            Suggestion("See the whole pipeline (demo)", "nothing is trained yet: six minutes, offline", Draft("demo")),
            trained("sft", "tiny", "the first stage: a base model learns to answer"),
        ]
    policies = stock.of("sft", "dpo", "grpo", "ppo")
    judges = stock.of("reward")
    if not policies:
        return [trained("sft", "tiny", "there is no model yet that answers")]
    start = str((stock.of("sft") or policies)[0].final)
    if not judges and not stock.of("dpo"):
        return [
            trained("reward", start, "a model answers, and nothing says yet how well"),
            trained("dpo", start, "or straight from comparisons, without a reward model"),
        ]
    if judges and not stock.of("ppo"):
        judge = judges[0]
        policy = judge.model if run_of_model(judge.model) else start
        ppo = trained("ppo", policy, f"{short(judge.folder)} can score answers: let a model learn from it")
        ppo.draft.answers["--reward-model"] = ["--reward-model", str(judge.final)]
        return [ppo, report_card(judge)]
    if not stock.of("grpo"):
        return [trained("grpo", start, "where code can check answers, no reward model is needed")]
    return []


def trained(method: str, model: str, why: str) -> Suggestion:
    """Train by a preset: the whole one for the bundled world, where it takes a minute; a look elsewhere."""
    preset = "standard" if origin(model) == "tiny" else "quick"
    name = short(run_of_model(model) or model)
    title = f"Train a {NAMES[method]} from {name}" if method == "reward" else f"Train {name} by {NAMES[method]}"
    return Suggestion(title, why, Draft(f"train-{method}", ("--preset", preset), {"--model": ["--model", model]}))


def resume(run: RunFound) -> Suggestion:
    where = f"step {run.step:,}" + (f" of {run.total:,}" if run.total else "")
    return Suggestion(
        f"Resume {short(run.folder)}", f"it was interrupted at {where}; nothing up to there is lost", resumed(run)
    )


def resumed(run: RunFound) -> Draft:
    """The command that goes on with a run, which needs no memory of the first one."""
    return Draft("train-config", (str(run.folder / "config.yaml"), "--resume"))


def compare(run: RunFound) -> Suggestion:
    answers = {"--model": ["--model", str(run.final)], "--against": ["--against", run.model]}
    return Suggestion(
        f"Compare {short(run.folder)} with what it came from",
        "figures say how much it learnt, answers side by side say what",
        Draft("evaluate", ("compare",), answers),
    )


def report_card(judge: RunFound) -> Suggestion:
    return Suggestion(
        f"Look at the report card of {short(judge.folder)}",
        "before a policy learns from its scores: what does it reward?",
        Draft("evaluate", ("reward",), {"--model": ["--model", str(judge.final)]}),
    )
