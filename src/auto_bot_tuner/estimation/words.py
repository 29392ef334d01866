"""What the dry run prints of its measurements."""

from __future__ import annotations

from auto_bot_tuner.estimation.advice import advice_in_words
from auto_bot_tuner.estimation.dry_run import DryRun
from auto_bot_tuner.estimation.memory import Memory, in_words
from auto_bot_tuner.estimation.time import Duration
from auto_bot_tuner.utils.durations import duration


def in_lines(found: DryRun, device: str) -> str:
    """Memory by part, time, and whether it fits: lines of 80 columns."""
    estimate = found.estimate
    lines = [f"memory           {in_words(estimate.memory.total)} at the peak, measured on this model and these rows"]
    lines += [f"  {name:14} {in_words(size):>10}  {what}" for name, size, what in parts(found) if size]
    if not estimate.memory.activations:
        lines.append("  activations          ?     not measured: not even the weights with their gradients fit")
    lines += time_lines(found.duration)
    return "\n".join([*lines, *advice_in_words(found.advice, estimate, found.available, device)])


def parts(found: DryRun) -> list[tuple[str, int, str]]:
    """(name, bytes, what it is) of each."""
    memory: Memory = found.estimate.memory
    work = found.estimate.work
    written = f"key-value cache and logits of {work.writing_tokens:,} tokens, while no step is taken"
    return [
        ("trained", memory.trained, "weights that train"),
        ("frozen", memory.frozen, "weights that do not"),
        ("gradients", memory.gradients, "one for each trained weight"),
        ("optimiser", memory.optimizer, "AdamW's two averages of them"),
        ("value network", memory.value_network, "its weights, beside those it shares"),
        ("reference", memory.reference, "a frozen copy of the starting policy"),
        ("reward models", memory.reward_models, "frozen"),
        ("activations", memory.activations, f"of the largest micro-batch, {work.tokens:,} tokens"),
        ("logits", memory.logits, "a chunk of tokens at a time"),
        ("writing", memory.writing, written),
        ("saving", memory.saving, "copies on their way to the file, while no step is taken"),
        ("program", memory.program, "Python, its libraries and the rows"),
    ]


def time_lines(spent: Duration | None) -> list[str]:
    """The whole, and what it is made of."""
    if spent is None:
        return ["time             not measured, as a step would not fit"]
    made_of = [(spent.step * spent.steps, f"{spent.steps:,} steps of {duration(spent.step)}")]
    if spent.rollouts:
        rollouts = f"{spent.rollouts:,} rollouts of {duration(spent.rollout)}"
        made_of.insert(0, (spent.rollout * spent.rollouts, rollouts))
    if spent.evaluation:
        evaluations = f"{spent.evaluations:,} evaluations of {duration(spent.evaluation)}, samples included"
        made_of.append((spent.evaluation * spent.evaluations, evaluations))
    if spent.before:
        made_of.append((spent.before, "the reference's log-probabilities, once"))
    total = f"time             about {duration(spent.total)}, measured on this machine as busy as it is now"
    return [total, *(f"  {duration(seconds):14} {what}" for seconds, what in made_of)]
