"""Ctrl-C and SIGTERM ask politely: the loop finishes its step, saves, and says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
    """Inside the block the first signal only asks; a second Ctrl-C breaks off at once, unsaved."""
    request = StopRequest()

    def ask(signal_number: int, _: FrameType | None) -> None:
        if request:
            raise KeyboardInterrupt
        request.signal_number = signal_number

    if threading.current_thread() is not threading.main_thread():
        yield request  # Python delivers signals to the main thread only (a notebook's worker has none)
        return
    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
