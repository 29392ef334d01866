"""Numbers as people write them: $1,234.50, −5, 42., .5, 2e3. No heavy imports."""

from __future__ import annotations

import math
import re

# A minus belongs to the number unless something stands before it: 10-7 is a difference, and its last number is 7.
# Commas only between groups of three: "1,2,3" are three numbers. A full stop that no digit follows ends the sentence.
NUMBER = re.compile(
    r"(?P<minus>(?<![\w)\]])-)?(?:[$€£](?P<inner_minus>-)?)?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?P<exponent>[eE][-+]?\d+)?"
)
RELATIVE_TOLERANCE = 1e-6


def last_number(text: str) -> float | None:
    """The last number that the text says, or None.

    >>> last_number("He pays $1,234.50 for 3 of them, so 3 - 5 = -2."), last_number("none")
    (-2.0, None)
    """
    found = None
    for match in NUMBER.finditer(text.replace("\u2212", "-")):  # the typographic minus
        found = match
    return None if found is None else value_of(found)


def as_number(text: str) -> float | None:
    """The number that the whole text is, but for spaces and a full stop at its end; else None.

    >>> as_number(" 42. "), as_number("42 apples")
    (42.0, None)
    """
    match = NUMBER.fullmatch(text.strip().rstrip(".").replace("\u2212", "-"))
    return None if match is None else value_of(match)


def value_of(match: re.Match[str]) -> float | None:
    value = float(match["digits"].replace(",", "") + (match["exponent"] or ""))
    if not math.isfinite(value):  # 1e999: all such would be equal
        return None
    return -value if match["minus"] or match["inner_minus"] else value


def same_number(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE)
