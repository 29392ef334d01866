"""What a run came to, in a few figures and sentences: the first thing on its page."""

from __future__ import annotations

from typing import NamedTuple

from auto_bot_tuner.reports.numbers import plain, shown
from auto_bot_tuner.reports.run_files import EVAL, Row, RunFiles, is_number
from auto_bot_tuner.training.lineage import lineage_of
from auto_bot_tuner.utils.durations import duration

FIGURES = {
    "sft": (("loss", "down"), ("accuracy", "up"), ("perplexity", "down")),
    "reward": (("accuracy", "up"), ("loss", "down"), ("reward_margin", "up")),
    "dpo": (("accuracy", "up"), ("reward_margin", "up"), ("chosen_logprobs", ""), ("kl", "")),
    "ppo": (("reward", "up"), ("kl", ""), ("eos_rate", "up"), ("response_length", "")),
    "grpo": (("reward", "up"), ("kl", ""), ("eos_rate", "up"), ("response_length", "")),
}
NAMES = {
    "loss": "held-out loss",
    "accuracy": "held-out accuracy",
    "perplexity": "perplexity",
    "reward": "reward on held-out prompts",
    "reward_margin": "reward margin",
    "chosen_logprobs": "log-prob of chosen answers",
    "kl": "KL, nats a response",
    "eos_rate": "answers that end",
    "response_length": "tokens a response",
}
NOTABLE = 0.02  # of the way an evaluation has gone: less is no turn


class Figure(NamedTuple):
    label: str
    before: str
    after: str
    verdict: str  # good, bad or empty: whether it went where it should


def figures_of(run: RunFiles) -> list[Figure]:
    """First against last evaluation; where nothing was held out, first against last log."""
    rows, prefix = (run.evaluations, EVAL) if run.evaluations else (run.logs, "")
    found = []
    for name, wanted in FIGURES.get(run.method, (("loss", "down"), ("reward", "up"))):
        values = [row[prefix + name] for row in rows if is_number(row.get(prefix + name))]
        if not values:
            continue
        label = NAMES[name] if prefix else NAMES[name].replace("held-out ", "").replace(" on held-out prompts", "")
        before, after = shown(name, settled(values[0])), shown(name, settled(values[-1]))
        verdict = "" if not wanted or before == after else goes(values[0], values[-1], wanted)
        found.append(Figure(label, before if len(values) > 1 else "", after, verdict))
    return found


def settled(value: float) -> float:
    """A KL of −2e-8 is 0 that was rounded."""
    return 0.0 if abs(value) < 1e-6 else value


def goes(before: float, after: float, wanted: str) -> str:
    return "good" if (after > before) == (wanted == "up") else "bad"


def facts_of(run: RunFiles) -> list[tuple[str, str]]:
    """The line under the title: when, how long, how much."""
    record, model = run.record, run.recorded("model")
    started = str(record.get("started") or "")[:16].replace("T", " ")
    total = record.get("total_steps")
    steps = f"{run.last_step:,}" + (f" of {total:,}" if is_number(total) and total != run.last_step else "")
    seconds, tokens, parameters = record.get("seconds"), record.get("tokens"), model.get("parameters")
    facts = [
        ("started", f"{started} UTC" if started else ""),
        ("took", duration(seconds) if is_number(seconds) else ""),
        ("steps", steps),
        ("tokens", f"{tokens:,.0f}" if is_number(tokens) else ""),
        ("weights", f"{parameters:,.0f}" if is_number(parameters) else ""),
        ("trained", trained_share(model)),
        ("data", dataset_name(run)),
    ]
    return [(name, text) for name, text in facts if text]


def trained_share(model: Row) -> str:
    trained, total = model.get("trained_parameters"), model.get("parameters")
    if not (is_number(trained) and is_number(total) and total):
        return ""
    return "every weight" if trained == total else f"{trained / total:.2%} of the weights"


def dataset_name(run: RunFiles) -> str:
    section = run.section("dataset")
    mix = section.get("mix")
    if isinstance(mix, dict) and mix:
        return " + ".join(f"{name} ({weight:g})" if is_number(weight) else str(name) for name, weight in mix.items())
    return str(section.get("name") or run.recorded("data").get("name") or "")


def line_of(run: RunFiles) -> list[tuple[str, str]]:
    """(method, name) from the base model to this run, oldest first."""
    chain = run.record.get("lineage")
    links = [link for link in chain if isinstance(link, dict)] if isinstance(chain, list) else []
    if links:
        return [(str(link.get("method", "")), str(link.get("name", ""))) for link in links]
    line = [(ancestor.method, ancestor.name) for ancestor in lineage_of(str(run.folder))]
    return line if len(line) > 1 else []  # a run without a config.yaml: nothing is known


def findings_of(run: RunFiles) -> list[str]:
    """What the figures say, as sentences: observations, where the run's own verdicts are warnings."""
    return [sentence for look in (turned, ended, displaced, beside_length, skipped) if (sentence := look(run))]


def turned(run: RunFiles) -> str:
    """Whether the best evaluation was not the last one."""
    name, best_of = ("reward", max) if run.method in ("ppo", "grpo") else ("loss", min)
    points = run.points(name, evaluated=True)
    if len(points) < 3:
        return ""
    best_step, best = best_of(points, key=lambda point: point[1])
    span = max(value for _, value in points) - min(value for _, value in points)
    if best_step == points[-1][0] or abs(points[-1][1] - best) < NOTABLE * span:
        return ""
    return (
        f"The best evaluation {name} was {plain(best)} at step {best_step:,.0f}, the last one is "
        f"{plain(points[-1][1])}: with --keep-best, final/ would hold the weights of step {best_step:,.0f}."
    )


def ended(run: RunFiles) -> str:
    by_step: dict[float, list[bool]] = {}
    for sample in run.samples:
        if isinstance(sample.get("ended"), bool):
            by_step.setdefault(sample["step"], []).append(sample["ended"])
    if not by_step or run.method == "reward":
        return ""
    first, last = by_step[min(by_step)], by_step[max(by_step)]
    before = f"; before training {sum(first)} of {len(first)} did" if len(by_step) > 1 else ""
    words = "ends by itself" if sum(last) == 1 else "end by themselves"
    return f"{sum(last)} of {len(last)} sample answers {words}{before}."


def displaced(run: RunFiles) -> str:
    if run.method != "dpo":
        return ""
    chosen, rejected = run.points("chosen_logprobs", True), run.points("rejected_logprobs", True)
    if len(chosen) < 2 or len(rejected) < 2:
        return ""
    change, other = chosen[-1][1] - chosen[0][1], rejected[-1][1] - rejected[0][1]
    if change < -3:
        return (
            f"The chosen answers lost {plain(-change)} nats of log-probability while the margin grew: likelihood "
            "displacement. An SFT term (--sft-weight), a larger beta or an earlier stop holds them."
        )
    return f"The chosen answers moved by {plain(change)} nats, the rejected ones by {plain(other)}: no displacement."


def beside_length(run: RunFiles) -> str:
    model, length = run.points("accuracy", True), run.points("length_accuracy", True)
    if run.method != "reward" or not model or not length:
        return ""
    return (
        f"It ranks {shown('accuracy', model[-1][1])} of the held-out pairs right, where preferring the longer answer "
        f"would reach {shown('accuracy', length[-1][1])}."
    )


def skipped(run: RunFiles) -> str:
    points = run.points("skipped_steps")
    if not points or not points[-1][1]:
        return ""
    return f"{points[-1][1]:,.0f} steps had nothing to learn from and left the model as it was."
