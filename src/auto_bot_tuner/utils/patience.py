"""Limits for work that a stranger's text decides about: a chat template that loops, a pattern that backtracks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from auto_bot_tuner.utils.errors import UserError


class _Overrun(BaseException):
    """Not an Exception: neither a template engine nor anything else may swallow it on its way."""


@contextmanager
def at_most(seconds: float, refusal: str) -> Iterator[None]:
    """Break off what runs inside after so many seconds of computing: on a busy machine nobody pays for the others.

    It needs POSIX signals and the main thread; elsewhere there is no limit.

    Raises:
        UserError: `refusal`, when the time is over.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Overrun

    handler, (left, _) = signal.signal(signal.SIGPROF, stop), signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except _Overrun:
        raise UserError(refusal) from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        signal.setitimer(signal.ITIMER_PROF, left)  # of whoever had set one before; 0: nobody


@contextmanager
def memory_at_most(size: int) -> Iterator[None]:
    """Inside, this process may take so many bytes more than it has; past that Python raises MemoryError.

    It needs Linux, where a process knows its size; elsewhere there is no limit.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + size
    if soft != resource.RLIM_INFINITY and soft <= limit:  # somebody has set a narrower one
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
