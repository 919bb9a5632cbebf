"""What is made ahead comes in order, with its errors, and no thread is left behind."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from lodos.data.batching.read_ahead import read_ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lodos-read-ahead"]


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:  # pyright: ignore[reportCallIssue]
        time.sleep(0.01)
    assert condition()  # pyright: ignore[reportCallIssue]


def test_items_come_in_order_and_end() -> None:
    assert list(read_ahead(iter(range(100)), 3)) == list(range(100))
    wait_for(lambda: not threads())


def test_errors_come_after_the_items_before_them() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_only_so_many_are_made_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in itertools.count():
            made.append(i)
            yield i

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 0
    wait_for(lambda: len(made) == 4)  # one given out, two ready, one in hand
    time.sleep(0.3)
    assert len(made) == 4
    del ahead
    wait_for(lambda: not threads())
