"""Ctrl-C and SIGTERM ask politely: the loop finishes its step, saves, and says how to go on.

Who cannot wait for that asks a second time.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from auto_bot_tuner.utils.errors import Interrupted


class StopRequest:
    """Set by a signal, read by the loop after each step."""

    def __init__(self) -> None:
        self.signal_number = 0

    @property
    def exit_code(self) -> int:
        """By the shell's convention 128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM.

        A process that stops because another one was asked to had no signal of its own: it ends as by Ctrl-C.
        """
        return 128 + (self.signal_number or signal.SIGINT)

    def __bool__(self) -> bool:
        return self.signal_number != 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside the block the first signal only asks; a second one breaks off at once, unsaved.

    Raises:
        Interrupted: there was a second one. What was being written then is whole, or not there.
    """
    request = StopRequest()

    def ask(signal_number: int, _: FrameType | None) -> None:
        is_second, request.signal_number = bool(request), signal_number
        if is_second:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield request  # Python delivers signals to the main thread only (a notebook's worker has none)
        return
    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    except KeyboardInterrupt as stop:
        if not request:  # of somebody else
            raise
        raise Interrupted(
            "broken off at once by the second signal, unsaved; go on from the newest checkpoint with the same command "
            "and --resume",
            request.exit_code,
        ) from stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
