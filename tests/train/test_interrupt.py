import os
import signal
import threading
import time

import pytest

from lodos.errors import Stopped
from lodos.signals import STOPPING, StopRequest
from lodos.train.interrupt import stop_on_signal


def send(signum: signal.Signals) -> None:
    """Sends this process a signal and gives Python the moment it needs to run the handler."""
    os.kill(os.getpid(), signum)
    time.sleep(0.01)


def handlers() -> list[object]:
    return [signal.getsignal(signum) for signum in (*STOPPING, signal.SIGUSR1)]


@pytest.mark.parametrize("signum", STOPPING)
def test_the_first_signal_only_asks(signum: signal.Signals) -> None:
    with stop_on_signal() as stop:
        assert not stop.requested
        send(signum)
        assert stop.signum == signum


@pytest.mark.parametrize("first", STOPPING)
@pytest.mark.parametrize("second", STOPPING)
def test_a_signal_after_a_request_stops_at_once(first: signal.Signals, second: signal.Signals) -> None:
    with stop_on_signal():
        send(first)
        with pytest.raises(KeyboardInterrupt if second == signal.SIGINT else Stopped):
            send(second)


def test_a_checkpoint_is_asked_for_without_an_end() -> None:
    with stop_on_signal() as stop:
        send(signal.SIGUSR1)
        assert (stop.saves, stop.requested) == (True, False)


def test_handlers_are_put_back() -> None:
    before = handlers()
    with stop_on_signal():
        assert all(now is not then for now, then in zip(handlers(), before, strict=True))
    assert handlers() == before


def test_handlers_are_put_back_after_an_exception() -> None:
    before = handlers()
    with pytest.raises(ValueError, match="broken"), stop_on_signal():
        raise ValueError("broken")
    assert handlers() == before


def test_a_request_is_forgotten_afterwards() -> None:
    with stop_on_signal():
        send(signal.SIGINT)
    with stop_on_signal() as stop:
        assert not stop.requested
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_another_thread_leaves_signals_alone() -> None:
    before, seen = handlers(), []

    def work() -> None:
        with stop_on_signal() as stop:
            assert isinstance(stop, StopRequest)
            seen.append((handlers() == before, stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, False)]
