"""Token by token: which word cost what, gained what, was worth what. `templates/tokens.html` draws it.

Colour carries the size and, where there is a sign, the sign; the number stands below each token as well, for who cannot
see the one or does not trust it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from auto_bot_tuner.reports.numbers import MINUS, plain
from auto_bot_tuner.reports.run_files import Row, RunFiles, is_number

LEVELS = 6
MOST_VIEWS, MOST_TOKENS = 12, 400
EDGES_BEFORE, EDGES_AFTER = ("", "\n", ">", "]", " "), ("", "\n", "<", "[", " ")  # between a template and a prompt
ONE_SIDED = ("loss", "logprob")  # never cross 0: one colour
MEANING = {
    "loss": "Surprise at each trained token, −log π in nats. Dark is what the model did not expect; "
    "after training little is left.",
    "policy - reference": "How much likelier (or less likely) the policy finds a token than its reference does, in "
    "nats. DPO wants the sum of the chosen answer above that of the rejected one; mind where the chosen one loses.",
    "score": "The score of the text up to this token: where the judgement turns, the reward model saw something.",
    "reward": "Reward paid at each token: the price of the KL all along, the score at the last one.",
    "value": "The reward that the value network still expects before this token.",
    "advantage": "How much better a token did than was to be expected: its sign says whether it becomes likelier.",
    "kl": "log π − log π_ref of each token, in nats: where the policy has left its reference.",
    "logprob": "log π of each token, in nats: dark where the policy was least sure.",
}


class Token(NamedTuple):
    text: str
    number: str  # empty: not trained, or not measured
    shade: str  # class: up-3, down-2, or empty
    ends_line: bool


class View(NamedTuple):
    title: str
    step: int
    prompt: str
    tokens: list[Token]
    left_out: int
    total: str


class Panel(NamedTuple):
    """All views by one series, on one scale."""

    series: str
    meaning: str
    views: list[View]
    legend: list[tuple[str, str]]  # shade, number


def panels_of(run: RunFiles) -> list[Panel]:
    """One panel for each series. Views of one prompt stand together, of one text earlier ones first; those prompts
    first where a text or its figures changed."""
    texts: dict[tuple[str, str], list[Row]] = {}
    for view in run.views:
        texts.setdefault(text_of(view), []).append(view)
    moved = {text[0] for text, told in texts.items() if any(view_changed(told[0], view) for view in told)}
    prompts = {prompt: place for place, prompt in enumerate(dict.fromkeys(text[0] for text in texts))}
    ordered = sorted(texts, key=lambda text: (text[0] not in moved, prompts[text[0]]))
    asked = {str(sample.get("prompt", "")).strip() for sample in run.samples}
    questions = {prompt: question_in(prompt, asked) for prompt in prompts}
    views = [{**view, "prompt": questions[text[0]]} for text in ordered for view in texts[text]][:MOST_VIEWS]
    names = dict.fromkeys(name for view in views for name in view["series"])
    return [panel for name in names if (panel := panel_of(name, [view for view in views if name in view["series"]]))]


def text_of(view: Row) -> tuple[str, str]:
    """What stays the same of a text from one evaluation to the next; after a comma its title may say its score."""
    return str(view.get("prompt", "")), str(view.get("title", "")).partition(",")[0]


def view_changed(first: Row, later: Row) -> bool:
    return bool(first["tokens"] != later["tokens"] or first["series"] != later["series"])


def question_in(prompt: str, asked: Iterable[str]) -> str:
    """The prompt without the template's marks, where it is one of the samples' too; else as it is."""
    for question in sorted(asked, key=len, reverse=True):
        start = prompt.rfind(question) if question else -1
        end = start + len(question)
        if start >= 0 and prompt[start - 1 : start] in EDGES_BEFORE and prompt[end : end + 1] in EDGES_AFTER:
            return question
    return prompt


def panel_of(name: str, views: Sequence[Row]) -> Panel | None:
    values = [value for view in views for value in view["series"][name] if is_number(value)]
    if not values:
        return None
    # One outlier must not bleach all others: the scale ends where 99 of 100 values lie.
    sizes = sorted(abs(value) for value in values)
    scale = sizes[math.ceil(0.99 * len(sizes)) - 1] or 1.0
    shades = range(1, LEVELS + 1) if name in ONE_SIDED else (*range(-LEVELS, 0), *range(1, LEVELS + 1))
    sign = -1 if name == "logprob" else 1
    edges = [(shade, math.copysign(scale * (shade / LEVELS) ** 2, shade * sign)) for shade in shades]
    legend = [(shade_class(shade), two_digits(edge)) for shade, edge in edges]
    made = [view_of(view, view["series"][name], scale, name) for view in views]
    return Panel(name, MEANING.get(name, ""), made, legend)


def view_of(view: Row, values: list[Any], scale: float, name: str) -> View:
    tokens = [
        token_of(str(text), value, scale, name in ONE_SIDED)
        for text, value in zip(view["tokens"][:MOST_TOKENS], values[:MOST_TOKENS], strict=True)
    ]
    return View(
        title=str(view.get("title", "")),
        step=int(view["step"]) if is_number(view.get("step")) else 0,
        prompt=str(view.get("prompt", "")),
        tokens=tokens,
        left_out=max(0, len(values) - MOST_TOKENS),
        total=total_of([value for value in values if is_number(value)], name),
    )


def total_of(values: Sequence[float], name: str) -> str:
    """What a text comes to: log-ratios and rewards add up, a score is the last one, of the rest the mean."""
    if not values:
        return ""
    if name == "score":
        return f"at its end {plain(values[-1])}"
    is_sum = name in ("policy - reference", "reward", "kl")
    return f"sum {plain(sum(values))}" if is_sum else f"mean {plain(sum(values) / len(values))}"


def token_of(text: str, value: Any, scale: float, is_one_sided: bool) -> Token:
    ends_line = text.endswith("\n")
    text = text.replace("\n", "⏎")
    if not is_number(value):
        return Token(text, "", "", ends_line)
    # The square root: small values are many, and their differences are to be seen too.
    level = min(LEVELS, round(LEVELS * math.sqrt(abs(value) / scale)))
    level = level if is_one_sided or value >= 0 else -level
    return Token(text, two_places(value), shade_class(level), ends_line)


def shade_class(level: int) -> str:
    return f"up-{level}" if level > 0 else f"down-{-level}" if level < 0 else ""


def two_places(value: float) -> str:
    """
    >>> two_places(-0.304), two_places(0.001), two_places(12.3)
    ('−.30', '0', '12.3')
    """
    if abs(value) < 0.005:
        return "0"
    text = f"{abs(value):.2f}" if abs(value) < 10 else f"{abs(value):.1f}"
    return (MINUS if value < 0 else "") + text.removeprefix("0")


def two_digits(value: float) -> str:
    """
    >>> two_digits(-1.959), two_digits(0.0544), two_digits(133.0)
    ('−2', '0.054', '130')
    """
    return f"{float(f'{value:.2g}'):g}".replace("-", MINUS)
