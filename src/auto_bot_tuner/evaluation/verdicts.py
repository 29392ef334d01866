"""What a report card amounts to, in words: a reader who skips the tables must not miss what is wrong."""

from __future__ import annotations

from auto_bot_tuner.evaluation.intervals import Share
from auto_bot_tuner.evaluation.report_card import RewardReport

FEWEST = 20  # pairs: of less nothing is said
WORTH_SAYING = 0.05  # between what is claimed and what is right


def verdicts(report: RewardReport) -> list[str]:
    """Sentences on what is wrong, the gravest first; one that says so where nothing is."""
    found = [*on_accuracy(report), *on_categories(report), *on_length(report), *on_confidence(report)]
    found += [
        f"It does not mind an answer {probe.name}: the score falls in only {probe.lowered.value:.0%} of the cases."
        for probe in report.probes
        if probe.lowered.n >= FEWEST and probe.lowered.value < 0.5
    ]
    return found or [
        "Nothing stands out: better than the baselines, in every category, and its margins can be believed."
    ]


def on_accuracy(report: RewardReport) -> list[str]:
    if report.accuracy.n < FEWEST:
        return [f"{report.accuracy.n} pairs are too few to say anything: measure on more."]
    if includes_chance(report.accuracy):
        return [f"Not told apart from a coin: {percent(report.accuracy)}. Do not train a policy on it."]
    return [
        f'The rule "{name}" does as well: {rule.right.value:.0%} right, where this model has '
        f"{percent(report.accuracy)}."
        for name, rule in report.baselines.items()
        if rule.right.value >= report.accuracy.interval[0]
    ]


def on_categories(report: RewardReport) -> list[str]:
    if len(report.by_category) < 2:
        return []
    known = {name: share for name, share in report.by_category.items() if share.n >= FEWEST}
    chance = {name: share for name, share in known.items() if includes_chance(share)}
    wrong = {name: share for name, share in known.items() if share.interval[1] < 0.5}
    sentences = []
    if chance and not includes_chance(report.accuracy):
        sentences.append(
            f"At chance on {listed(chance)}: the accuracy of {report.accuracy.value:.0%} comes from elsewhere."
        )
    if wrong:
        sentences.append(f"Worse than chance on {listed(wrong)}: it has learnt to like these.")
    return sentences


def on_length(report: RewardReport) -> list[str]:
    shorter, longer = (report.by_length.get(f"chosen side {name}er") for name in ("short", "long"))
    if shorter is None or longer is None or min(shorter.n, longer.n) < FEWEST:
        return []
    for name, better, worse in (("long", longer, shorter), ("short", shorter, longer)):
        if better.interval[0] > worse.interval[1]:
            return [
                f"It leans to {name} answers: {better.value:.0%} right where the better answer is the {name}er one, "
                f"{worse.value:.0%} where it is not."
            ]
    return []


def on_confidence(report: RewardReport) -> list[str]:
    sentences = []
    claimed, (low, high) = report.accuracy.value + report.overconfidence, report.accuracy.interval
    if report.accuracy.n >= FEWEST and abs(report.overconfidence) > WORTH_SAYING and not low <= claimed <= high:
        word = "Overconfident" if report.overconfidence > 0 else "Too modest"
        sentences.append(
            f"{word}: its margins claim {claimed:.0%} on average, and {report.accuracy.value:.0%} are right. "
            "The order of its scores can be trusted more than their differences."
        )
    if len(report.by_gap) > 1 and report.by_gap[-1].right.n >= FEWEST:
        small, large = report.by_gap[0].right.value, report.by_gap[-1].right.value
        if large <= small < 1:
            sentences.append(f"Large gaps are no surer than small ones: {large:.0%} right against {small:.0%}.")
    return sentences


def includes_chance(share: Share) -> bool:
    low, high = share.interval
    return low <= 0.5 <= high


def percent(share: Share) -> str:
    return f"{share.value:.0%} [{share.interval[0]:.0%}, {share.interval[1]:.0%}]"


def listed(shares: dict[str, Share]) -> str:
    return ", ".join(f"{name} ({percent(share)})" for name, share in shares.items())
