"""Items made by a thread before they are asked for, so that the device does not wait for them.

Grain does this for what has random access (`TrainLoader`); this is for what has not.
"""

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

_CHECK_SECONDS = 0.1


def read_ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The items in order, up to `count` of them made in advance. What making them raises is raised here.

    The thread ends soon after the iterator is closed or forgotten.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(maxsize=count)
    stopped = threading.Event()
    threading.Thread(target=_make, args=(items, ready, stopped), name="lodos-read-ahead", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stopped.set()


def _make(items: Iterator[T], ready: "queue.Queue[tuple[T] | BaseException | None]", stopped: threading.Event) -> None:
    end: BaseException | None = None
    try:
        for item in items:
            if not _put(ready, (item,), stopped):
                return
    except BaseException as error:
        end = error
    _put(ready, end, stopped)


def _put(
    ready: "queue.Queue[tuple[T] | BaseException | None]",
    item: "tuple[T] | BaseException | None",
    stopped: threading.Event,
) -> bool:
    """Whether somebody still wants it."""
    while not stopped.is_set():
        try:
            ready.put(item, timeout=_CHECK_SECONDS)
        except queue.Full:
            continue
        return True
    return False
