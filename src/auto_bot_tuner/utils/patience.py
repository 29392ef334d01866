"""A time limit for work that a stranger's text decides about: a chat template that loops, a pattern that backtracks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
