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


class Story(NamedTuple):
    """One prompt and what became of its answer."""

    prompt: str
    shown: list[Answer]
    folded: list[Answer]


def stories_of(run: RunFiles) -> list[Story]:
    """Each prompt with its answers in the order of steps; of many evaluations the first, the last and some between."""
    answers = by_prompt(run)
    stories = []
    for (prompt, _), told in list(answers.items())[:MOST_PROMPTS]:
        kept = chosen(told)
        stories.append(Story(prompt, kept, [answer for answer in told if answer not in kept]))
    return stories


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
        ended=ended if isinstance(ended, bool) else None,
        score=plain(round(score, 3)) if is_number(score) else "",
    )


def chosen(told: Sequence[Answer]) -> list[Answer]:
    if len(told) <= MOST_SHOWN:
        return list(told)
    places = sorted({round(i * (len(told) - 1) / (MOST_SHOWN - 1)) for i in range(MOST_SHOWN)})
    return [told[place] for place in places]
