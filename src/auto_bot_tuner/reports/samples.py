"""The answers to the same few prompts, from evaluation to evaluation: the curve that a person can read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from auto_bot_tuner.reports.numbers import plain
from auto_bot_tuner.reports.run_files import RunFiles, is_number

MOST_PROMPTS = 24
MOST_SHOWN = 4  # evaluations at once; those between are folded away


class Answer(NamedTuple):
    step: int
    text: str
    ended: bool | None
    score: str
    side: str = ""  # chosen, rejected …: answers that a reward model scores were written by people


class Side(NamedTuple):
    """One of the answers to a prompt, from evaluation to evaluation."""

    label: str  # empty where the prompt has one answer
    is_fixed: bool  # the same words each time: only their score changes
    shown: list[Answer]
    folded: list[Answer]


class Story(NamedTuple):
    """One prompt and what became of its answers."""

    prompt: str
    sides: list[Side]


def stories_of(run: RunFiles) -> list[Story]:
    """Each prompt with its answers in the order of steps; those that changed first. Of many evaluations the first, the
    last and some between."""
    prompts: dict[str, list[list[Answer]]] = {}
    for (prompt, _), told in by_prompt(run).items():
        prompts.setdefault(prompt, []).append(told)
    changed_first = sorted(prompts.items(), key=lambda item: not any(map(changed, item[1])))
    stories = []
    for prompt, sides in changed_first[:MOST_PROMPTS]:
        names = [f"answer {number}" for number in range(1, len(sides) + 1)] if len(sides) > 1 else [""]
        stories.append(Story(prompt, list(map(side_of, sides, names))))
    return stories


def changed(told: Sequence[Answer]) -> bool:
    """Whether the answer or its score is not always the same."""
    return len({(answer.text, answer.score) for answer in told}) > 1


def side_of(told: Sequence[Answer], name: str) -> Side:
    kept = chosen(told)
    label = told[0].side or name
    is_fixed = bool(label) and len({answer.text for answer in told}) == 1 and all(answer.score for answer in told)
    folded = [] if is_fixed else [answer for answer in told if answer not in kept]
    return Side(label, is_fixed, kept, folded)


def by_prompt(run: RunFiles) -> dict[tuple[str, int], list[Answer]]:
    """(prompt, which of its answers) → that answer at each step; a reward model scores two to the same prompt."""
    found: dict[tuple[str, int], list[Answer]] = {}
    seen: dict[tuple[Any, str], int] = {}
    for sample in run.samples:
        prompt = str(sample.get("prompt", ""))
        place = seen[sample["step"], prompt] = seen.get((sample["step"], prompt), -1) + 1
        found.setdefault((prompt.strip(), place), []).append(answer_of(sample))
    return found


def answer_of(sample: dict[str, Any]) -> Answer:
    text, score, ended = str(sample.get("response", "")), sample.get("score"), sample.get("ended")
    return Answer(
        step=int(sample["step"]),
        text=text,
        ended=ended if isinstance(ended, bool) and not sample.get("side") else None,
        score=plain(round(score, 3)) if is_number(score) else "",
        side=str(sample.get("side") or ""),
    )


def chosen(told: Sequence[Answer]) -> list[Answer]:
    if len(told) <= MOST_SHOWN:
        return list(told)
    places = sorted({round(i * (len(told) - 1) / (MOST_SHOWN - 1)) for i in range(MOST_SHOWN)})
    return [told[place] for place in places]
