"""The report card of a reward model in words and tables, and as a record for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from commands.evaluate.printing import columns

if TYPE_CHECKING:  # these import torch, and flags are parsed before anything heavy is
    from auto_bot_tuner.evaluation.intervals import Share
    from auto_bot_tuner.evaluation.report_card import Bin, RewardReport


def print_card(report: RewardReport, title: str, left_out: Mapping[str, int]) -> None:
    """The card on a terminal: a table for each question, and the verdict last, where it is read."""
    from auto_bot_tuner.evaluation.verdicts import verdicts

    print_shares(report, title)
    if left_out:
        print(f"left out: {', '.join(f'{count} rows, {reason}' for reason, count in left_out.items())}")
    columns(
        "\nDoes it know how sure it is? A margin is a claim of how often it is right.",
        ["sigmoid(|margin|)", "claimed", "right", "pairs", "95 %"],
        [[span(bin, "{:.0%}"), f"{bin.confidence:.1%}", *told(bin.right)] for bin in report.calibration],
    )
    print(f"expected calibration error {report.ece:.1%}; by chance alone it would be {report.ece_by_chance:.1%}")
    if report.probes:
        columns(
            "\nChosen answers spoilt on purpose: the score should fall.",
            ["the answer is", "falls", "answers", "95 %", "mean change"],
            [[probe.name, *told(probe.lowered), f"{probe.mean_change:+.2f}"] for probe in report.probes],
        )
    print("\nVerdict")
    for sentence in verdicts(report):
        print(textwrap.fill(sentence, 80, initial_indent="- ", subsequent_indent="  "))


def print_shares(report: RewardReport, title: str) -> None:
    """In how many pairs the chosen side scores higher, cut in every way."""
    rows: list[list[Any] | None] = [["all pairs", *told(report.accuracy)]]
    for name, rule in report.baselines.items():
        fitted = f" (fitted on {rule.fitted_on:,})" if rule.fitted_on else ""
        rows.append([f"  rule: {name}{fitted}", *told(rule.right)])
    if len(report.by_category) > 1:
        rows += [None, *([f"category {name}", *told(share)] for name, share in report.by_category.items())]
    rows += [None, *([name, *told(share)] for name, share in report.by_length.items())]
    rows += [None, *([f"gap {span(bin, '{:.2g}')}", *told(bin.right)] for bin in report.by_gap)]
    columns(title, ["", "right", "pairs", "95 %"], rows)
    if report.ties:
        print(f"{report.ties} ties: both sides score the same; each counts half")


def told(share: Share) -> list[str]:
    low, high = share.interval
    return [f"{share.value:.1%}", f"{share.n:,}", f"{low:.1%} to {high:.1%}"]


def span(bin: Bin, form: str) -> str:
    return f"{form.format(bin.low)} to {form.format(bin.high)}"


def as_record(report: RewardReport) -> dict[str, Any]:
    """The numbers of the card for JSON."""
    from auto_bot_tuner.evaluation.verdicts import verdicts

    return {
        "accuracy": share_record(report.accuracy),
        "ties": report.ties,
        "ece": report.ece,
        "ece_by_chance": report.ece_by_chance,
        "overconfidence": report.overconfidence,
        "prefers_longer": share_record(report.prefers_longer),
        "calibration": [bin_record(bin) for bin in report.calibration],
        "by_gap": [bin_record(bin) for bin in report.by_gap],
        "by_category": {name: share_record(share) for name, share in report.by_category.items()},
        "by_length": {name: share_record(share) for name, share in report.by_length.items()},
        "baselines": {
            name: {**share_record(rule.right), "fitted_on": rule.fitted_on} for name, rule in report.baselines.items()
        },
        "probes": {
            probe.name: {**share_record(probe.lowered), "mean_change": probe.mean_change} for probe in report.probes
        },
        "verdicts": verdicts(report),
    }


def share_record(share: Share) -> dict[str, Any]:
    return {"share": share.value, "n": share.n, "interval_95": list(share.interval)}


def bin_record(bin: Bin) -> dict[str, Any]:
    return {"low": bin.low, "high": bin.high, "confidence": bin.confidence, **share_record(bin.right)}
