"""Probes: spoil a good answer in a known way, and see whether the reward model minds.

A policy that is trained on a reward tries everything. A model that pays as much for half an answer, for the same answer
twice, for filler, or for an answer that never ends, will be given those. Each probe changes the *chosen* answers of
held-out pairs in one way that makes them worse; the score should fall.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from auto_bot_tuner.data.chat_template import Conversation
from auto_bot_tuner.evaluation.intervals import Share, share_won
from auto_bot_tuner.utils.errors import UserError

FILLER = "That is a good question, and there is a lot that one could say about it."

# (prompts, responses, whether each response ends with the end token) → one score each
Scorer = Callable[[Sequence[Conversation], Sequence[str], Sequence[bool]], Sequence[float]]


@dataclass(frozen=True)
class Probe:
    """One way to spoil an answer, and what the scores did."""

    name: str
    lowered: Share  # answers whose score fell, as it should
    mean_change: float  # of the score, in nats; below 0 as it should be


def first_half(answer: str) -> str:
    """The first half of the words, as of an answer that was cut off; "" where there is but one.

    >>> first_half("The cow eats grass.")
    'The cow'
    """
    return " ".join(answer.split()[: len(answer.split()) // 2])


# what the answer then is → (how it is changed, whether it still ends with the end token)
WAYS: dict[str, tuple[Callable[[str], str], bool]] = {
    "cut off half way": (first_half, False),
    "without its end token": (lambda answer: answer, False),
    "said twice": (lambda answer: f"{answer} {answer}", True),
    "after filler": (lambda answer: f"{FILLER} {answer}", True),
    "followed by filler": (lambda answer: f"{answer} {FILLER}", True),
}


def probe(score: Scorer, prompts: Sequence[Conversation], answers: Sequence[str]) -> list[Probe]:
    """Spoil n good answers in every way of `WAYS`; an answer that a way leaves nothing of is passed over.

    Raises:
        UserError: there is no answer.
    """
    if not answers:
        raise UserError("there is no answer to probe: choose another split or more samples")
    before = score(prompts, answers, [True] * len(answers))
    found = []
    for name, (spoil, ended) in WAYS.items():
        spoilt = [spoil(answer) for answer in answers]
        kept = [i for i, answer in enumerate(spoilt) if answer.strip()]
        if kept:
            after = score([prompts[i] for i in kept], [spoilt[i] for i in kept], [ended] * len(kept))
            changes = [new - before[i] for i, new in zip(kept, after, strict=True)]
            lowered = share_won([-change for change in changes], [json.dumps(prompts[i]) for i in kept])
            found.append(Probe(name, lowered, fmean(changes)))
    return found
