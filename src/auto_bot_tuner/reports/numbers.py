"""Numbers as people read them. One home, so that a figure looks the same in every table and beside every curve."""

from __future__ import annotations

import math
from typing import Any

SHARES = {
    "accuracy",
    "length_accuracy",
    "eos_rate",
    "clip_fraction",
    "value_clip_fraction",
    "groups_without_spread",
    "reward_correct",
    "ended",
    "win_rate",
    "puzzles",
    "puzzles_sampled",
}
MINUS = "−"


def plain(value: float) -> str:
    """Four significant digits, as training prints them.

    >>> [plain(value) for value in (1.6832551, 12585.85, -0.0027071, 7.96e-08, 0.0)]
    ['1.683', '12,586', '−0.002707', '8e-08', '0']
    """
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", MINUS)
    text = f"{value:.4g}" if abs(value) >= 1e-4 else f"{value:.1g}"
    return MINUS + text[1:] if text.startswith("-") else text


def shown(name: str, value: Any) -> str:
    """A metric by its name: shares in per cent, all others as they are; what is no number as itself.

    >>> shown("eval_accuracy", 0.97799), shown("loss", 0.0801)
    ('97.8%', '0.0801')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if not math.isfinite(value):
        return "∞" if value > 0 else "not a number"
    return f"{100 * value:.1f}%" if name.removeprefix("eval_") in SHARES else plain(value)


def short(value: float) -> str:
    """For an axis: as short as can be.

    >>> [short(value) for value in (13500.0, 2_000_000.0, 0.25, 0.00015)]
    ['13.5k', '2M', '0.25', '1.5e-4']
    """
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = 1e3 if sign == "k" else limit
            return f"{value / scale:.4g}{sign}".replace("-", MINUS)
    if value and abs(value) < 1e-3:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.4g}".replace("-", MINUS)
