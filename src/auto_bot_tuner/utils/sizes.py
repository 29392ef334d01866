"""Bytes as people read them."""

from __future__ import annotations

UNITS = ("B", "kB", "MB", "GB", "TB")


def readable_size(size_bytes: float) -> str:
    """As file managers write it, in powers of 1000.

    >>> readable_size(548_105_171)
    '548 MB'
    """
    unit = 0
    while size_bytes >= 999.5 and unit < len(UNITS) - 1:
        size_bytes, unit = size_bytes / 1000, unit + 1
    return f"{size_bytes:.0f} {UNITS[unit]}" if size_bytes >= 10 or unit == 0 else f"{size_bytes:.1f} {UNITS[unit]}"
