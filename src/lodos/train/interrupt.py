"""Ctrl-C and termination while steps are done: a request, for which a run stops after the current step, with everything
saved. What signals do before and afterwards: `lodos.signals`."""

from collections.abc import Iterator
from contextlib import contextmanager

from lodos.signals import StopRequest, listening

_stopped_by = 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Within it the first SIGINT, SIGTERM or SIGHUP is a request; the next one ends the process or is an exception.

    Outside the main thread, where Python allows no handlers, nothing is requested.
    """
    request = StopRequest()
    with listening() as listener:
        if listener is None:
            yield request
            return
        with listener.asking(request):
            yield request


def note_stop(signum: int) -> None:
    """Remembers the signal for which the last run of this process stopped early; 0 if it did not."""
    global _stopped_by
    _stopped_by = signum


def exit_status() -> int:
    """What a program that has run to its end returns: 128 and the signal that stopped its training, else 0."""
    return 128 + _stopped_by if _stopped_by else 0
