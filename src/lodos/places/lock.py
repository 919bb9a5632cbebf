"""One writer at a time in a folder, here or on a store.

    lodos-lock.json    whose it is: host, process, since when. It is touched every few seconds while that lives.

Whoever comes second is refused at once. The lock of a process that has ended is taken over: of one on this machine that
can be seen; of another machine's, when it was not touched for `LOST_SECONDS`, by the clock of the disk or the store.

On a local disk two that come at once are kept apart by flock(2). Where there is no such thing, as on stores, each
writes its lock and looks a little later whose is there; a store that shows what was written last is all this needs.
"""

import contextlib
import dataclasses
import datetime
import errno
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lodos import signals
from lodos.errors import TRY_AGAIN, UserError
from lodos.files import flush
from lodos.places.objects import read_object, remove_object
from lodos.places.place import Place, is_remote
from lodos.places.store import NothingThereError, StoreFailingError, ask
from lodos.processes import Process, this_process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

LOCK = "lodos-lock.json"
BEAT_SECONDS = 15.0
LOST_SECONDS = 120.0
"""After so long without a sign of life, a process of another machine is taken for ended."""
SETTLE_SECONDS = 2.0
_GUARD_SECONDS = 5.0
_ATTEMPTS = 5


class TakenError(StoreFailingError):
    """Another machine has the folder, or had it a moment ago: another try may help."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """Whose lock it is."""

    id: str
    host: str
    tag: str
    since: float
    """Seconds since 1970, by its own clock."""

    @classmethod
    def me(cls) -> "Owner":
        return cls(uuid.uuid4().hex, socket.gethostname(), this_process().tag, time.time())

    def encode(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode()

    @classmethod
    def decode(cls, content: bytes) -> "Owner":
        """That of a lock; one whose file says nothing, as it is for a moment, is of nobody known."""
        try:
            found = cls(**json.loads(content))
            return dataclasses.replace(found, since=float(found.since), tag=str(found.tag))
        except (ValueError, TypeError):
            return cls("", "a host unknown", "", 0.0)

    @property
    def process(self) -> Process | None:
        return Process.of_tag(self.tag)


@contextmanager
def only_writer(folder: Place) -> Iterator[None]:
    """Within it, nobody else is the writer of a folder, which is made.

    Raises:
        UserError: when a process of this machine is.
        TakenError: when one of another machine is, or was until a moment ago.
    """
    me = Owner.me()
    lock = folder / LOCK
    _take(lock, me)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(lock, me, ended), name="lodos-lock", daemon=True)
    beating.start()
    try:
        with signals.farewell(lambda _: _let_go(lock, me)):
            yield
    finally:
        ended.set()
        beating.join(BEAT_SECONDS)
        _let_go(lock, me)
        if not is_remote(folder):
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


def _let_go(lock: Place, me: Owner) -> None:
    with contextlib.suppress(OSError, StoreFailingError):
        if _owner(lock) == me:
            remove_object(lock) if is_remote(lock) else lock.unlink()


def _take(lock: Place, me: Owner) -> None:
    if is_remote(lock):
        _refuse_living(lock)
        ask(lock, "pipe_file", me.encode())
        _settle(lock, me)
        return
    for attempt in range(_ATTEMPTS):
        try:
            _take_here(lock, me)
            return
        except FileNotFoundError:  # somebody left, and removed the empty folder, a moment ago
            if attempt == _ATTEMPTS - 1:
                raise


def _take_here(lock: Path, me: Owner) -> None:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _guarded(lock.parent) as is_guarded:
        _refuse_living(lock)
        lock.unlink(missing_ok=True)
        try:
            with lock.open("xb") as file:
                file.write(me.encode())
        except FileExistsError:  # somebody else's, a moment ago
            _refuse_living(lock)
            raise TakenError(_said(lock, _owner(lock), 0.0)) from None
        flush(lock)
    if not is_guarded:
        _settle(lock, me)


def _settle(lock: Place, me: Owner) -> None:
    """Looks whose the lock is when everybody who came at once has written theirs."""
    time.sleep(SETTLE_SECONDS)
    if (found := _owner(lock)) != me:
        raise TakenError(_said(lock, found, 0.0))


def _refuse_living(lock: Place) -> None:
    owner = _owner(lock)
    if owner is None:
        return
    process = owner.process
    if process is not None and process.is_here:
        if process.is_gone:
            return
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
        raise UserError(
            f"{lock.parent}: another process of this machine is writing it: {process.pid}, since {since}. Wait for its "
            "end, stop it, or give another trainer.id."
        )
    age = _age(lock)
    if age < LOST_SECONDS:
        raise TakenError(_said(lock, owner, age))
    logger.warning(
        "%s: %s was writing it and has given no sign of life for %.0f s: taken over.", lock.parent, owner.host, age
    )


def _said(lock: Place, owner: Owner | None, age: float) -> str:
    who = "another host" if owner is None else owner.host
    return (
        f"{lock.parent}: a process on {who} is writing it; its last sign of life came {age:.0f} s ago. Wait for its "
        f"end, or give another trainer.id. If that host is gone, the run can go on here in {LOST_SECONDS - age:.0f} s, "
        f"or at once when {lock} is removed."
    )


def _owner(lock: Place) -> Owner | None:
    """Whose the lock is; None where there is none."""
    try:
        return Owner.decode(read_object(lock) if is_remote(lock) else lock.read_bytes())
    except (FileNotFoundError, NothingThereError):
        return None


def _age(lock: Place) -> float:
    """Seconds since the lock was touched, by the clock of who keeps it."""
    probe = lock.parent / f".lodos-probe-{uuid.uuid4().hex}"
    try:
        if is_remote(probe):
            ask(probe, "pipe_file", b"lodos\n")
            try:
                return _seconds(ask(probe, "info")) - _seconds(ask(lock, "info"))  # pyright: ignore[reportArgumentType]
            finally:
                remove_object(probe)
        probe.touch()
        try:
            return probe.stat().st_mtime - lock.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
    except FileNotFoundError:  # the lock has gone meanwhile
        return LOST_SECONDS


def _seconds(info: Any) -> float:
    """When an object was written, as its store says."""
    when = next((info[name] for name in ("LastModified", "updated", "mtime", "created") if info.get(name)), None)
    if isinstance(when, str):
        when = datetime.datetime.fromisoformat(when.replace("Z", "+00:00"))
    if isinstance(when, datetime.datetime):
        return when.timestamp()
    return float(when) if when is not None else time.time()


def _beat(lock: Place, me: Owner, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        try:
            found = _owner(lock)
            if found != me and found is not None and not ended.is_set():
                _leave(lock, found)
            if is_remote(lock):
                ask(lock, "pipe_file", me.encode())
            else:
                os.utime(lock)
        except (OSError, StoreFailingError) as error:
            logger.debug("%s: not touched: %s", lock, error)


def _leave(lock: Place, owner: Owner) -> None:
    """Ends the process at once, which was taken for ended: what it wrote now would go into another's run."""
    logger.error("%s: taken over by a process on %s. This one ends, and writes nothing more.", lock.parent, owner.host)
    os._exit(TRY_AGAIN)


@contextmanager
def _guarded(folder: Path) -> Iterator[bool]:
    """Within it, nobody else of this machine takes a lock in the folder; gives whether that is so."""
    if fcntl is None:
        yield False
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        yield _flocked(opened)
    finally:
        os.close(opened)  # which lets it go


def _flocked(opened: int) -> bool:
    assert fcntl is not None
    until = time.monotonic() + _GUARD_SECONDS
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES) or time.monotonic() > until:
                return False  # a file system that has no such locks
        time.sleep(0.01)
