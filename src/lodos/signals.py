"""What becomes of a process that is told to end: SIGINT, SIGTERM, SIGHUP, and an output that nobody reads any more.

What the first signal does depends on what there is to lose:

    starting     nothing is open: the process ends at once. Imports are such a time, which take no exception well.
    working      an exception in the main thread, so that what is half written is cleared away and locks are let go
    asking       while steps are done, a request: what there is to save is saved, and the run ends by itself

The second one ends the process at once. Exit codes are those of a shell: 128 and the number of the signal.

Python runs handlers between two instructions of the main thread, which may be in a compiler for minutes, or in some
library's `except:`, where an exception is lost. So a thread watches besides, which the system wakes for each signal: it
ends a process that has not ended in time, or that is told twice.

SIGUSR1 asks for a checkpoint, and ends nothing.
"""

import contextlib
import io
import os
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TextIO

from lodos.errors import Stopped

UNWIND_SECONDS = 5.0
"""How long the main thread has to clear away what is half written, when there is nothing to save."""
FAREWELL_SECONDS = 60.0
"""How long a run has, when what is to be saved is saved: for uploads, trackers and other hosts."""
_ECHO_SECONDS = 0.1
"""The same signal again within this time is the same one: timeout(1) sends it to a process and to its group."""
_FAREWELLS_SECONDS = 3.0
_WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up", "SIGPIPE": ""}

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAVING = getattr(signal, "SIGUSR1", None)
PIPE = int(getattr(signal, "SIGPIPE", 13))


class StopRequest:
    """What somebody has asked of a training."""

    def __init__(self) -> None:
        self.signum = 0
        """The signal that asked it to stop; 0 if none did."""
        self.saves = False
        """Whether SIGUSR1 asked for a checkpoint since the last one."""

    @property
    def requested(self) -> bool:
        """Whether it is to stop."""
        return self.signum != 0


class Listener:
    """Hears the signals of this process, in whose main thread it is made.

    Args:
        is_own: whether the process is there for lodos alone, so that it may be ended from any thread. Otherwise, in a
            program of somebody else's, each signal after the first is an exception.
    """

    def __init__(self, *, is_own: bool):
        self.signum = 0
        """The first that told the process to end; 0 if none did."""
        self.is_own = is_own
        self._is_starting = is_own
        self._interrupts_only = False
        self._request: StopRequest | None = None
        self._saves = False
        self._instead = 0
        self._heard: tuple[int, float] | None = None
        self._deadline: float | None = None
        self._ends = threading.Lock()
        self._farewells: list[Callable[[int], Any]] = []
        self._before: dict[signal.Signals, Any] = {}

    def start(self) -> None:
        """Begins to hear."""
        for signum in (*STOPPING, *([SAVING] if SAVING else [])):
            before = signal.getsignal(signum)
            # nohup(1) has SIGHUP ignored: who starts a run so wants it to outlive the terminal.
            if not (signum == getattr(signal, "SIGHUP", None) and before is signal.SIG_IGN):
                self._before[signum] = before
                signal.signal(signum, self._handle)
        if self.is_own:
            self._wakes, wakes = os.pipe()
            os.set_blocking(wakes, False)
            self._wake_up = wakes
            signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, name="lodos-signals", daemon=True).start()
            self._quieten()

    def stop(self) -> None:
        """Puts back what was there. One of a process that is lodos' own hears to its end."""
        for signum, handler in self._before.items():
            # Whoever has put another one in its place meanwhile meant it to stay: `hosts.finish` does.
            if signal.getsignal(signum) == self._handle:
                # None stands for a handler that was not installed from Python.
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def working(self, *, interrupts_only: bool = False) -> None:
        """From here on the first signal is an exception: KeyboardInterrupt for SIGINT, `Stopped` for the others.

        Args:
            interrupts_only: SIGINT ends nothing by itself, however often it comes: whoever talks with the user decides.
        """
        self._is_starting, self._interrupts_only = False, interrupts_only

    def ending(self) -> None:
        """From here on there is nothing to lose any more."""
        self._is_starting, self._deadline = True, None

    @contextmanager
    def asking(self, request: StopRequest) -> Iterator[None]:
        """Within it the first signal is a request, also one that came before and was lost on its way."""
        request.signum, request.saves = self.signum if self.is_own else 0, self._saves
        self._request, self._deadline = request, None
        try:
            yield
        finally:
            self._request, self._saves = None, False
            if self.is_own and self.signum:
                self._wait_until(time.monotonic() + FAREWELL_SECONDS)
            elif not self.is_own:
                self.signum = 0

    def forget(self) -> None:
        """As if no signal had come."""
        self.signum, self._heard, self._deadline = 0, None, None

    def add_farewell(self, say: Callable[[int], Any]) -> None:
        """Has `say(status)` called before the process is ended from here, within a few seconds."""
        self._farewells.append(say)

    @contextmanager
    def farewell(self, say: Callable[[int], Any]) -> Iterator[None]:
        """The same within it alone."""
        self._farewells.append(say)
        try:
            yield
        finally:
            self._farewells.remove(say)

    def pipe_broke(self) -> None:
        """Nobody reads what the process says: taken for SIGPIPE. From any thread."""
        if not self.signum:
            self._instead = PIPE
            os.kill(os.getpid(), signal.SIGTERM)

    def end(self, signum: int) -> NoReturn:
        """Ends the process at once, as the signal has it."""
        if not self._ends.acquire(blocking=False):
            while True:  # another thread is about to
                time.sleep(1)
        with contextlib.suppress(OSError):
            os.write(2, f"{_word(signum)}\n".encode() if _word(signum) else b"")
        status = 128 + signum
        saying = threading.Thread(target=self._say_farewell, args=(status,), daemon=True)
        if self._farewells:
            saying.start()
            saying.join(_FAREWELLS_SECONDS)
        os._exit(status)

    def _say_farewell(self, status: int) -> None:
        for say in reversed(list(self._farewells)):
            with contextlib.suppress(Exception):
                say(status)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == SAVING:
            self._saves = True
            if self._request is not None:
                self._request.saves = True
            return
        if signum == signal.SIGINT and self._interrupts_only:
            raise KeyboardInterrupt
        if self.is_own and self._is_echo(signum):
            return
        if signum == signal.SIGTERM and self._instead:
            signum, self._instead = self._instead, 0
        is_second, self.signum = self.signum != 0, self.signum or signum
        if self._is_starting or (is_second and self.is_own):
            self.end(signum)
        if self._request is not None and not is_second:
            self._request.signum = signum
        elif signum == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise Stopped(signum)

    def _is_echo(self, signum: int) -> bool:
        now, before = time.monotonic(), self._handled
        self._handled = (signum, now)
        return before[0] == signum and now - before[1] < _ECHO_SECONDS

    _handled = (0, 0.0)

    # What the watching thread does.

    def _watch(self) -> None:
        while True:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            if not select.select([self._wakes], [], [], left)[0]:
                if self._request is not None:
                    self._deadline = None
                elif self._deadline is not None and time.monotonic() >= self._deadline:
                    self.end(self.signum or (self._heard or (int(signal.SIGTERM), 0.0))[0])
                continue
            for signum in os.read(self._wakes, 512):
                if signum in STOPPING and signal.getsignal(signum) == self._handle:
                    self._woken(signum)

    def _woken(self, signum: int) -> None:
        if signum == signal.SIGINT and self._interrupts_only:
            return
        now, before = time.monotonic(), self._heard
        self._heard = (signum, now)
        if before is not None and before[0] == signum and now - before[1] < _ECHO_SECONDS:
            return
        if self._is_starting or before is not None:
            self.end(self._instead or signum)
        if self._request is None:
            self._deadline = now + UNWIND_SECONDS

    def _wait_until(self, deadline: float) -> None:
        self._deadline = deadline
        os.write(self._wake_up, b"\0")

    def _quieten(self) -> None:
        """When a process that was told to end unwinds, what is said of exceptions in odd places is of no use."""
        unraisable, threads = sys.unraisablehook, threading.excepthook
        sys.unraisablehook = lambda found: None if self.signum else unraisable(found)
        threading.excepthook = lambda found: None if self.signum else threads(found)


_listener: Listener | None = None


def listen() -> None:
    """Hears the signals of this process, which is there for lodos alone, from here to its end."""
    global _listener
    if _listener is None and threading.current_thread() is threading.main_thread():
        _listener = Listener(is_own=True)
        _listener.start()


@contextmanager
def listening() -> Iterator[Listener | None]:
    """Within it signals are exceptions, for what is being written to be cleared away; and `farewell` is heeded.

    None outside the main thread, where Python allows no handlers.

    Raises:
        Stopped: for SIGTERM and SIGHUP; SIGINT is KeyboardInterrupt.
    """
    global _listener
    if _listener is not None or threading.current_thread() is not threading.main_thread():
        yield _listener if threading.current_thread() is threading.main_thread() else None
        return
    _listener = Listener(is_own=False)
    _listener.start()
    try:
        yield _listener
    finally:
        _listener.stop()
        _listener = None


def working(*, interrupts_only: bool = False) -> None:
    """As `Listener.working`, where there is one."""
    if _listener is not None:
        _listener.working(interrupts_only=interrupts_only)


def ending() -> None:
    """As `Listener.ending`, where there is one."""
    if _listener is not None:
        _listener.ending()


def received() -> int:
    """The signal that told this process to end; 0 if none did."""
    return 0 if _listener is None else _listener.signum


def add_farewell(say: Callable[[int], Any]) -> None:
    """As `Listener.add_farewell`, where there is one."""
    if _listener is not None:
        _listener.add_farewell(say)


@contextmanager
def farewell(say: Callable[[int], Any]) -> Iterator[None]:
    """As `Listener.farewell`, where there is one."""
    with contextlib.nullcontext() if _listener is None else _listener.farewell(say):
        yield


def deaf() -> None:
    """Whatever signal comes from here on is not heard, and one that came before and changed nothing is forgotten."""
    if threading.current_thread() is threading.main_thread():
        for signum in STOPPING:
            signal.signal(signum, signal.SIG_IGN)
        if _listener is not None:
            _listener.forget()


def say(signum: int) -> None:
    """The one word for a process that ends by a signal."""
    if word := _word(signum):
        print(word, file=sys.stderr)


def stop_on_broken_pipes() -> None:
    """From here on an output whose reader has gone, as in `lodos train | head`, is SIGPIPE, and no write fails.

    That is for the two outputs alone: the signal itself comes for sockets too, and stays ignored. In a process of
    somebody else's nothing changes.
    """
    if _listener is not None and _listener.is_own:
        sys.stdout, sys.stderr = _heard(sys.stdout, _listener), _heard(sys.stderr, _listener)


def _heard(stream: TextIO, listener: Listener) -> TextIO:
    try:
        kind = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # somebody's own
        return stream
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        return stream
    stream.flush()
    raw = _Output(stream.fileno(), listener)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=True, write_through=True
    )


class _Output(io.FileIO):
    """A file descriptor that becomes the null device when nobody reads it any more."""

    def __init__(self, descriptor: int, listener: Listener):
        super().__init__(descriptor, "wb", closefd=False)
        self._listener = listener

    def write(self, data: Any, /) -> int | None:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            self._listener.pipe_broke()
            return memoryview(data).nbytes


def _word(signum: int) -> str:
    return _WORDS.get(signal.Signals(signum).name, "stopped")
