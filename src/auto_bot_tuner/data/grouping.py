"""What a loss can compare, made of what the data knows: pairs, rankings, single good or bad ones, scored responses.

Third station of preference data: `Preference` (one row, any number of responses) → groups, each of which is
one term of a loss. A ranking gives every pair of a better and a worse response; scored rows of one prompt are joined.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Literal, NamedTuple

from auto_bot_tuner.data.chat_template import Conversation
from auto_bot_tuner.data.preferences import Preference
from auto_bot_tuner.utils.errors import UserError

# pairs: [better, worse] · rankings: two or more, best first, no ties · scores: responses with numbers, compared
# with nothing · unpaired: one response that is good or bad
Kind = Literal["pairs", "rankings", "scores", "unpaired"]


class Grouped(NamedTuple):
    """One term of a loss, in words."""

    origin: int  # position of the raw row (of the first, where several were joined)
    prompt: Conversation
    responses: list[Conversation]
    scores: list[float]  # nan where the data has none
    category: str


def group_responses(
    preferences: list[tuple[int, Preference]], kind: Kind, where: Callable[[int], str]
) -> tuple[list[Grouped], Counter[str]]:
    """Groups of `kind` from (origin, preference) rows, and what could not be compared, counted by reason.

    Raises `UserError` for a row that cannot be of this kind: a label has no partner, an order no numbers.
    """
    reasons = Counter[str]()
    groups: list[Grouped] = []
    for origin, preference in preferences if kind == "scores" else _joined(preferences):
        refuse(preference, kind, where(origin))
        made = list(
            {"pairs": _pairs, "rankings": _rankings, "scores": _scores, "unpaired": _unpaired}[kind](preference)
        )
        groups += [
            Grouped(origin, preference.prompt, [preference.responses[i] for i in order], scores, preference.category)
            for order, scores in made
        ]
        if not made:
            reasons["one response only" if len(preference.responses) < 2 else "tied or identical responses"] += 1
    return groups, reasons


def refuse(preference: Preference, kind: Kind, where: str) -> None:
    """Raise where the row's knowledge is not what `kind` learns from, with the cure."""
    if kind in ("pairs", "rankings") and preference.label is not None:
        raise UserError(
            f"{where}: a response with a label (good or bad) has no partner to be compared with; learn from such rows "
            "with train-dpo --loss kto, or give rows with chosen and rejected"
        )
    if kind == "unpaired" and preference.label is None and (preference.scores or len(preference.responses) != 2):
        raise UserError(
            f"{where}: a ranking or a score says which response is better, not which is good; use another "
            "--loss than kto, or give rows with prompt, completion and label"
        )
    if kind == "scores" and preference.label is None and preference.scores is None:
        raise UserError(
            f"{where}: an order without numbers: there is no score to learn; give score_chosen and score_rejected, "
            "or learn from pairs"
        )


Made = Iterator[tuple[list[int], list[float]]]  # positions of a group's responses, and their numbers


def _pairs(preference: Preference) -> Made:
    """Every better response against every worse one."""
    for better, worse in combinations(_spoken(preference), 2):
        same = preference.responses[better] == preference.responses[worse]
        if preference.ranks[better] < preference.ranks[worse] and not same:
            if preference.margin is not None and not preference.scores:
                yield [better, worse], [preference.margin, 0.0]  # only the difference is known: it alone is used
            else:
                yield [better, worse], _numbers(preference, [better, worse])


def _rankings(preference: Preference) -> Made:
    """All responses, best first. Of tied or identical ones the first stays: an order has no room for two."""
    order: list[int] = []
    for i in _spoken(preference):
        seen = any(preference.responses[i] == preference.responses[j] for j in order)
        if not seen and all(preference.ranks[i] != preference.ranks[j] for j in order):
            order.append(i)
    if len(order) > 1:
        yield order, _numbers(preference, order)


def _scores(preference: Preference) -> Made:
    order = _spoken(preference)
    yield order, [float(preference.label)] if preference.label is not None else _numbers(preference, order)


def _unpaired(preference: Preference) -> Made:
    """Each response alone: 1 is good, 0 is bad. A pair becomes one of each."""
    labels = [preference.label] if preference.label is not None else [True, False]
    yield from (([i], [float(label)]) for i, label in enumerate(labels))


def _spoken(preference: Preference) -> list[int]:
    return [i for i, response in enumerate(preference.responses) if response]


def _numbers(preference: Preference, order: list[int]) -> list[float]:
    return [preference.scores[i] if preference.scores else float("nan") for i in order]


def _joined(preferences: list[tuple[int, Preference]]) -> list[tuple[int, Preference]]:
    """Single scored responses to the same prompt become one row, best first; other rows stay as they are."""
    joined: dict[object, tuple[int, Preference]] = {}
    for position, (origin, row) in enumerate(preferences):
        single = row.scores is not None and len(row.responses) == 1
        key = json.dumps(row.prompt) if single else position
        if key not in joined:
            joined[key] = (
                origin,
                row._replace(responses=[*row.responses], ranks=[*row.ranks], scores=row.scores and [*row.scores]),
            )
            continue
        first = joined[key][1]
        first.responses.extend(row.responses)
        first.ranks.extend(row.ranks)
        (first.scores or []).extend(row.scores or [])
    return [(origin, _best_first(row)) for origin, row in joined.values()]


def _best_first(row: Preference) -> Preference:
    order = sorted(range(len(row.responses)), key=lambda i: row.ranks[i])
    return row._replace(
        responses=[row.responses[i] for i in order],
        ranks=[row.ranks[i] for i in order],
        scores=row.scores and [row.scores[i] for i in order],
    )
