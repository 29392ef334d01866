"""How long something takes, as people say it: one spelling in the dry run, in reports and in the demo."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """
    >>> [duration(seconds) for seconds in (0.02, 8.24, 19.2, 150, 180, 7384)]
    ['20 ms', '8.2 s', '19 s', '2 min 30 s', '3 min', '2 h 3 min']
    """
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
