"""One run to a folder: the mark of the process that writes there, which means nothing once that process is gone."""

from __future__ import annotations

import os
from pathlib import Path

from auto_bot_tuner.utils.errors import UserError

LOCK = ".running"  # holds the number of the process that writes here, and when that process was born
CLOCK_STEP = 5.0  # seconds by which a process's birth may seem to move, when the machine's clock is set


def claim(folder: Path) -> None:
    """Mark the folder as this process's.

    Raises:
        UserError: another run has marked it since `check_run_folder` looked.
    """
    lock = folder / LOCK
    if owner_of(folder) in (None, os.getpid()):  # of a process that is no more, or of an earlier run of ours
        lock.unlink(missing_ok=True)
    try:
        with lock.open("x", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n{birth_of(os.getpid()):.2f}\n")
    except FileExistsError as error:
        raise UserError(f"another run has just begun to write to {folder}: choose another --output-dir") from error


def owner_of(folder: Path) -> int | None:
    """The process that trains into this folder now. The mark of one that was killed means nothing, even where another
    process goes by its number since (after a restart of a container that is the rule)."""
    try:
        owner, *born = (folder / LOCK).read_text(encoding="utf-8").split()
        is_alive = not born or abs(birth_of(int(owner)) - float(born[0])) < CLOCK_STEP
        return int(owner) if is_alive and birth_of(int(owner)) else None
    except (OSError, ValueError):
        return None


def birth_of(process: int) -> float:
    """When it was started, in seconds since 1970; 0 where there is none of that number."""
    import psutil  # type: ignore[import-untyped]  # here: the menu does not pay for it

    try:
        return float(psutil.Process(process).create_time())
    except psutil.Error:
        return 0.0
