"""Work that is done once and kept, under a name that is the hash of everything it depends on.

An entry is a folder. It is made beside its place under a temporary name, loaded once to see that it is whole, given a
manifest with the digest of each file, and renamed into place. An entry that is not as its manifest says, by a single
bit, is made again. So a kill leaves at worst a folder that nobody looks at, and processes that make the same entry at
once do not meet: the first to finish puts its folder there, the others find it and throw theirs away. What a name was
made for never changes, so an entry is either right or not there.

Knows nothing of rows or tokens.
"""

import contextlib
import errno
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lodos.errors import UserError
from lodos.files import cache_folder, move_whole
from lodos.places.fetching import fetch_folder, is_whole_there
from lodos.places.manifest import problems, seal_folder
from lodos.places.place import Place, is_remote, place_of
from lodos.places.sending import send_folder
from lodos.places.store import refusals
from lodos.processes import Process, this_process

if TYPE_CHECKING:
    from upath import UPath

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SHOWN = 3
ABANDONED_SECONDS = 24 * 3600
"""An unfinished folder that has not changed for so long belongs to a process that was killed."""


def cache_key(depends_on: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of a mapping of plain values; the order of keys has no part in it."""
    text = json.dumps(depends_on, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def data_cache_folder(given: str | None) -> Place:
    """Where tokenized data is kept: `given`, else `data` in the folder of all that lodos can make again."""
    return cache_folder() / "data" if given is None else place_of(given)


def load_or_build(
    entry: Place, load: Callable[[Path], T], build: Callable[[Path], None], *, broken: type[Exception]
) -> T:
    """What `load` makes of the folder `entry`, which `build` fills first if it is not there or not whole.

    Args:
        load: raises `broken` when the folder it is given is not whole.
        build: fills an empty folder.

    Raises:
        UserError: when the folder cannot be written. What `build` raises passes through and leaves nothing behind.
    """
    if is_remote(entry):
        return _load_or_build_on_store(entry, load, build, broken=broken)
    if entry.exists():
        found = problems(entry)
        try:
            if not found:
                return load(entry)
        except broken as error:
            found = [str(error)]
        logger.warning("%s: not as it was written: %s. It is made again.", entry, "; ".join(found[:_SHOWN]))
        _discard(entry)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(entry.parent)
        temporary = _made_beside(entry)
    except OSError as error:
        raise _unwritable(entry.parent, error) from None
    try:
        build(temporary)
        load(temporary)
        seal_folder(temporary)
        _move_into_place(temporary, entry)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _unwritable(entry.parent, error) from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load(entry)


def _load_or_build_on_store(
    entry: "UPath", load: Callable[[Path], T], build: Callable[[Path], None], *, broken: type[Exception]
) -> T:
    """The same for an entry on a store: its files are mapped, so they are used from this machine's own cache."""
    local = cache_folder() / "data" / entry.name

    def fetch_or_build(folder: Path) -> None:
        if is_whole_there(entry):
            fetch_folder(entry, folder)
        else:
            build(folder)

    with refusals("data_cache_dir", entry):
        found = load_or_build(local, load, fetch_or_build, broken=broken)
        if not is_whole_there(entry):
            send_folder(local, entry)
    return found


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"data_cache_dir: {folder} cannot be written: {error.strerror}. Make room there or name another folder."
    )


def _move_into_place(temporary: Path, entry: Path) -> None:
    try:
        move_whole(temporary, entry)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Another process was faster. Its folder was made from the same things, and may be in use already.


def _discard(entry: Path) -> None:
    """Removes a folder so that nobody ever sees it half removed."""
    aside = _made_beside(entry)
    with contextlib.suppress(FileNotFoundError):  # another process discards it, too
        entry.rename(aside / entry.name)
    shutil.rmtree(aside, ignore_errors=True)


def _made_beside(entry: Path) -> Path:
    """An empty folder, whose name says who made it."""
    prefix = f".{entry.name[:16]}.{this_process().tag}."
    return Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=entry.parent))


def _remove_abandoned(folder: Path) -> None:
    """Removes what processes that ended have left: those of this machine at once, others when nothing has changed for
    `ABANDONED_SECONDS`."""
    for partial in folder.glob(".*.partial"):
        maker = Process.of_tag(partial.name)
        if maker is not None and maker.is_gone:
            shutil.rmtree(partial, ignore_errors=True)
            continue
        with contextlib.suppress(OSError):  # its owner or another process was faster
            newest = max(path.stat().st_mtime for path in (partial, *partial.rglob("*")))
            if time.time() - newest > ABANDONED_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)
