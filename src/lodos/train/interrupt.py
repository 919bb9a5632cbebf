"""Ctrl-C and termination as a request: the first stops after the current step, the second at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Within it the first SIGINT or SIGTERM sets the flag; the next SIGINT raises KeyboardInterrupt.

    Outside the main thread, where Python allows no handlers, the flag is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if request.requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        request.requested = True

    previous = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for signum, handler in previous.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
