"""What preference data would teach besides the preference: length, repetition, leaks between training and evaluation.

A model learns whatever tells chosen from rejected. If that is length, it will learn to ramble; if the sides hardly
differ, it will learn little; and if held-out prompts were trained on, its accuracy says nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from auto_bot_tuner.data.chat_template import Conversation
from auto_bot_tuner.utils.terminal import neutral

if TYPE_CHECKING:
    from auto_bot_tuner.data.grouping import Grouped
    from auto_bot_tuner.data.response_groups import ResponseGroups

NEAR = 0.9  # sides that share so much of their words are called near-identical
MOST_CATEGORIES = 12  # of the table


@dataclass
class LengthBias:
    """How far length alone tells the chosen side from the rejected one."""

    pairs: int = 0
    chosen_tokens: int = 0
    rejected_tokens: int = 0
    chosen_longer: int = 0
    equally_long: int = 0

    def add(self, chosen: int, rejected: int) -> None:
        """Count one pair by the tokens of its responses."""
        self.pairs += 1
        self.chosen_tokens += chosen
        self.rejected_tokens += rejected
        self.chosen_longer += chosen > rejected
        self.equally_long += chosen == rejected

    @property
    def accuracy(self) -> float:
        """Of always preferring the longer side; where both are as long it guesses, and is right half the time."""
        return (self.chosen_longer + self.equally_long / 2) / max(self.pairs, 1)


@dataclass
class PreferenceReport:
    """Counts of pairs unless said otherwise."""

    length: LengthBias
    near_identical: int
    repeated: int  # the same prompt, chosen and rejected as an earlier pair
    contradictory: int  # the same two responses, preferred the other way round by an earlier pair
    categories: dict[str, LengthBias] = field(default_factory=dict)
    held_out: int = 0
    known_prompts: int = 0  # held-out pairs whose prompt is also trained on
    known_pairs: int = 0  # … and both their responses with it

    def __str__(self) -> str:
        length, total = self.length, self.length.pairs
        chosen, rejected = length.chosen_tokens / total, length.rejected_tokens / total
        lines = [
            f"longer   chosen in {length.chosen_longer / total:.0%} of pairs, neither in "
            f"{length.equally_long / total:.0%} (mean {chosen:.1f} and {rejected:.1f} tokens)",
            f"         preferring the longer is right in {length.accuracy:.1%} (50%: length tells nothing)",
            f"alike    {_share(self.near_identical, total)} of pairs share at least {NEAR:.0%} of their words",
            f"twice    {_share(self.repeated, total)} repeat an earlier pair, "
            f"{_share(self.contradictory, total)} say the opposite of one",
        ]
        if self.held_out:
            lines += [
                f"held out {self.held_out:,} more pairs for evaluation",
                f"         of these {_share(self.known_prompts, self.held_out)} have a prompt that is trained on, too; "
                f"{self.known_pairs:,} whole",
            ]
        return "\n".join(lines + self._categories())

    def _categories(self) -> list[str]:
        """A table of the most frequent categories, where the data names any."""
        if not any(self.categories):
            return []
        ranked = sorted(self.categories.items(), key=lambda item: -item[1].pairs)
        shown = [(neutral(name or "(none)")[:24].replace("\n", " "), bias) for name, bias in ranked[:MOST_CATEGORIES]]
        width = max(len(name) for name, _ in shown)
        lines = [f"category {'':{width}}    pairs   the longer is right"]
        lines += [f"         {name:{width}} {bias.pairs:8,} {bias.accuracy:21.1%}" for name, bias in shown]
        return lines + [f"         and {len(ranked) - len(shown)} more"] * (len(ranked) > len(shown))


def preference_report(dataset: ResponseGroups, held_out: ResponseGroups | None = None) -> PreferenceReport:
    """The report of a set of pairs, as the model sees them: lengths are those after `max_length`."""
    length, categories = LengthBias(), dict[str, LengthBias]()
    for index in range(len(dataset)):
        group = dataset.group(index)
        chosen, rejected = (len(ids) - group.prompt_length for ids in group.input_ids)
        length.add(chosen, rejected)
        categories.setdefault(dataset.category(index), LengthBias()).add(chosen, rejected)
    near = sum(word_overlap(*row.responses) >= NEAR for row in dataset.rows)
    repeated, contradictory = _recurring(dataset.rows)
    report = PreferenceReport(length, near, repeated, contradictory, categories)
    if held_out is not None:
        prompts, pairs = ({key(row) for row in dataset.rows} for key in (_prompt_key, _pair_key))
        report.held_out = len(held_out)
        report.known_prompts = sum(_prompt_key(row) in prompts for row in held_out.rows)
        report.known_pairs = sum(_pair_key(row) in pairs for row in held_out.rows)
    return report


def word_overlap(one: Conversation, other: Conversation) -> float:
    """Words that both responses have, as a share of the mean number of their words; order does not count.

    With word counts a and b: 2 Σ min(aᵢ, bᵢ) / (Σ aᵢ + Σ bᵢ), Dice's coefficient. 1 for the same words, 0 for none.

    >>> say = lambda text: [{"role": "assistant", "content": text}]
    >>> word_overlap(say("It is zinc."), say("It is tin."))
    0.6666666666666666
    """
    a, b = (
        Counter(word for turn in side if turn["role"] == "assistant" for word in turn["content"].split())
        for side in (one, other)
    )
    return 2 * (a & b).total() / max(a.total() + b.total(), 1)


def _recurring(rows: Sequence[Grouped]) -> tuple[int, int]:
    """(pairs that repeat an earlier one, pairs that prefer what an earlier one rejects)."""
    seen: set[str] = set()
    repeated = contradictory = 0
    for row in rows:
        swapped = row._replace(responses=row.responses[::-1])
        repeated += _pair_key(row) in seen
        contradictory += _pair_key(swapped) in seen
        seen.add(_pair_key(row))
    return repeated, contradictory


def _prompt_key(row: Grouped) -> str:
    """Prompts that differ in capitals or white space only are the same question."""
    return " ".join(json.dumps([turn["content"].split() for turn in row.prompt]).lower().split())


def _pair_key(row: Grouped) -> str:
    return _prompt_key(row) + json.dumps(row.responses)


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / max(total, 1):.1%})"
