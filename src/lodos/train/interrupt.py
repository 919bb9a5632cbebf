"""Ctrl-C and termination. While steps are done, a request: the first stops after the current step, with everything
saved. Before and afterwards there is nothing to save, and the process ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lodos.errors import Stopped

_stopped_by = 0


class StopRequest:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.signum = 0
        """The signal that asked; 0 if none did."""

    @property
    def requested(self) -> bool:
        return self.signum != 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Within it the first SIGINT or SIGTERM sets the flag; the next SIGINT raises KeyboardInterrupt.

    Outside the main thread, where Python allows no handlers, the flag is never set.
    """
    request = StopRequest()

    def handle(signum: int, frame: FrameType | None) -> None:
        if request.requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        request.signum = request.signum or signum

    with _handling({signal.SIGINT: handle, signal.SIGTERM: handle}):
        yield request


@contextmanager
def ended_by_termination() -> Iterator[None]:
    """Within it SIGTERM is an exception, as SIGINT is, for what is being written to be cleared away.

    Raises:
        Stopped: when it comes.
    """

    def handle(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    with _handling({signal.SIGTERM: handle}):
        yield


def note_stop(signum: int) -> None:
    """Remembers the signal for which the last run of this process stopped early; 0 if it did not."""
    global _stopped_by
    _stopped_by = signum


def exit_status() -> int:
    """What a program that has run to its end returns: 130 or 143 if a signal stopped its training, else 0."""
    return 128 + _stopped_by if _stopped_by else 0


@contextmanager
def _handling(handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any]]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            # Whoever has put another one in its place meanwhile meant it to stay: `hosts.finish` does.
            if signal.getsignal(signum) is handlers[signum]:
                # None stands for a handler that was not installed from Python.
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)
