"""One writer at a time in a folder, here or on a store.

    lodos-lock.json    whose it is: host, process, since when. It is touched every few seconds while that lives.

Whoever comes second is refused at once. The lock of a process that has ended is taken over: of one on this machine that
can be seen; of another machine's, when it was not touched for `LOST_SECONDS`, by the clock of the disk or the store.
Since a clock may be set meanwhile, such a lock is watched a little longer for a sign of life, which every touch is.

A lock that vanishes while its owner lives, with its folder or without, is written again.

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
WATCH_SECONDS = BEAT_SECONDS + 3.0
"""How long a lock that looks abandoned is watched: its owner, if it lives, touches it within that time."""
SETTLE_SECONDS = 2.0
_GUARD_SECONDS = 5.0
_LOOK_SECONDS = 1.0
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


@dataclasses.dataclass(frozen=True)
class _Sign:
    """A sign of life: another one follows every few seconds."""

    owner: Owner
    touched: float
    """When, by the clock of who keeps the lock; whatever that clock does, no two are alike."""


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
    dead = _outlived(lock)
    if is_remote(lock):
        ask(lock, "pipe_file", me.encode())
        _settle(lock, me)
        return
    for attempt in range(_ATTEMPTS):
        try:
            _take_here(lock, me, dead)
            return
        except FileNotFoundError:  # somebody left, and removed the empty folder, a moment ago
            if attempt == _ATTEMPTS - 1:
                raise


def _take_here(lock: Path, me: Owner, dead: _Sign | None) -> None:
    """Takes the lock, unless somebody else's is there.

    Args:
        dead: the last sign of life of one that is taken over.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _guarded(lock.parent) as is_guarded:
        found = _sign(lock)
        if found is not None and found != dead:
            _refuse_living(lock, found)
        lock.unlink(missing_ok=True)
        try:
            _write_new(lock, me)
        except FileExistsError:  # somebody else's, a moment ago
            if (found := _sign(lock)) is not None:
                _refuse_living(lock, found)
            raise TakenError(_said(lock, None, 0.0)) from None
    if not is_guarded:
        _settle(lock, me)


def _write_new(lock: Path, me: Owner) -> None:
    with lock.open("xb") as file:
        file.write(me.encode())
    flush(lock)


def _settle(lock: Place, me: Owner) -> None:
    """Looks whose the lock is when everybody who came at once has written theirs."""
    time.sleep(SETTLE_SECONDS)
    if (found := _owner(lock)) != me:
        raise TakenError(_said(lock, found, 0.0))


def _outlived(lock: Place) -> _Sign | None:
    """The last sign of life of the lock's owner, who has ended; None where there is no lock.

    Where another machine's owner seems to have ended, it waits for a sign of life from it.

    Raises:
        UserError, TakenError: when the owner lives.
    """
    found = _sign(lock)
    if found is None or _is_gone(found.owner):
        return found
    age = _refuse_living(lock, found)
    # A lock of the future is one whose clock was set back since: its age says nothing, and only watching does.
    seconds = WATCH_SECONDS if age >= LOST_SECONDS else LOST_SECONDS
    host = found.owner.host
    logger.info("%s: %s seems to have ended while writing it: watched for %.0f s.", lock.parent, host, seconds)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK_SECONDS))
        if (now := _sign(lock)) is None:
            return None
        if now != found:
            raise TakenError(_said(lock, now.owner, 0.0))
    logger.warning(
        "%s: %s was writing it and has given no sign of life for %.0f s: taken over.",
        lock.parent,
        host,
        max(age, 0.0) + seconds,
    )
    return found


def _is_gone(owner: Owner) -> bool:
    """Whether it surely has ended."""
    return owner.process is not None and owner.process.is_gone


def _refuse_living(lock: Place, found: _Sign) -> float:
    """The age in seconds of a lock that says nothing of a living owner.

    Raises:
        UserError: when it is of a living process of this machine.
        TakenError: when another machine's was touched a while ago; a negative age within that while is one, too.
    """
    owner, process = found.owner, found.owner.process
    if process is not None and process.is_here and not process.is_gone:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
        raise UserError(
            f"{lock.parent}: another process of this machine is writing it: {process.pid}, since {since}. Wait for its "
            "end, stop it, or give another trainer.id."
        )
    age = _age(lock, found)
    if abs(age) < LOST_SECONDS and not _is_gone(owner):
        raise TakenError(_said(lock, owner, age))
    return age


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


def _sign(lock: Place) -> _Sign | None:
    """The newest sign of life in a lock; None where there is none."""
    owner = _owner(lock)
    try:
        return None if owner is None else _Sign(owner, _touched(lock))
    except (FileNotFoundError, NothingThereError):  # it has gone meanwhile
        return None


def _touched(place: Place) -> float:
    """When an object was written or touched, in seconds by the clock of who keeps it."""
    return _seconds(ask(place, "info")) if is_remote(place) else place.stat().st_mtime


def _age(lock: Place, found: _Sign) -> float:
    """Seconds since a sign of life, by the clock of who keeps the lock; below 0 where that was set back."""
    probe = lock.parent / f".lodos-probe-{uuid.uuid4().hex}"
    if is_remote(probe):
        ask(probe, "pipe_file", b"lodos\n")
        try:
            return _touched(probe) - found.touched
        finally:
            remove_object(probe)
    probe.touch()
    try:
        return _touched(probe) - found.touched
    finally:
        probe.unlink(missing_ok=True)


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
            if ended.is_set():  # meanwhile, and the lock is let go
                return
            if found is None:
                _write_again(lock, me)
            elif found != me:
                _leave(lock, found)
            elif is_remote(lock):
                ask(lock, "pipe_file", me.encode())
            else:
                os.utime(lock)
        except (OSError, StoreFailingError) as error:
            logger.debug("%s: not touched: %s", lock, error)


def _write_again(lock: Place, me: Owner) -> None:
    if is_remote(lock):
        ask(lock, "pipe_file", me.encode())
    else:
        lock.parent.mkdir(parents=True, exist_ok=True)
        _write_new(lock, me)
    logger.warning(
        "%s: has vanished while the run was writing there: somebody has removed it, or all of the folder, or has taken "
        "the disk away. It is written again, and the run goes on and saves there; what was removed stays so.",
        lock,
    )


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
