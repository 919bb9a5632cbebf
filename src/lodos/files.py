"""Folders that are either whole or not there.

A folder is written beside its place under a temporary name, checked there, and renamed into place. Whoever
reads the place sees the old folder or the new one, never half of one. This is for disks of this machine: a store has no
rename, and `lodos.places` sends there.
"""

import ctypes
import errno
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FULL = {"ENOSPC", "EDQUOT", "EFBIG"}
_BROKEN = {"EROFS", "EIO", "ESTALE", "ENODEV", "ENXIO"}
_GONE = {"ENOENT", "ENOTDIR", "EACCES", "EPERM"}
_REFUSALS = {getattr(errno, name) for name in _FULL | _BROKEN | _GONE if hasattr(errno, name)}
"""What a disk says that is full, broken, read-only, or not there any more."""
_TENSORSTORE_CODE = re.compile(r"os_error_code='(\d+)'")

_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8,32}\.(partial|old)")
"""The names of what is being written, or is being replaced."""


def cache_folder() -> Path:
    """Where lodos keeps what it can make or fetch again: `$LODOS_CACHE`, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("LODOS_CACHE") or platformdirs.user_cache_dir("lodos"))


@contextmanager
def written_whole(place: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `place`; on a clean exit it becomes `place`, replacing what was there.

    On Linux the two change places in one step. Where the system cannot do that, what was there is renamed away first,
    so for a moment there is nothing at `place`, and never half of anything. On an exception the temporary folder is
    removed and `place` is left as it was.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    try:
        umask = _umask_in(temporary)
        temporary.chmod(0o777 & ~umask)
        yield temporary
        _open_to_readers(temporary, umask)
        # Afterwards the old folder has the temporary name, and is removed as such.
        if place.is_dir() and not place.is_symlink() and _exchanged(temporary, place):
            flush_folder(place.parent)
            return
        old = temporary.with_suffix(".old")
        if place.exists():
            place.rename(old)
        try:
            temporary.rename(place)
        except OSError:
            if old.exists():
                old.rename(place)
            raise
        flush_folder(place.parent)
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the two could change places: renameat2(2) with RENAME_EXCHANGE, which Python's os module lacks."""
    at_fdcwd, rename_exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # another C library or another system
        return False
    return renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0


def clear_leftovers(folder: Path) -> None:
    """Removes what writers of this module that were killed have left in a folder. Nobody may be writing there."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        match = _TEMPORARY.fullmatch(path.name)
        if match is None:
            continue
        place = folder / match[1]
        if match[2] == "old" and not place.exists():  # killed between the two renames
            path.rename(place)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, UTF-8: until it is whole, what was at `path` stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hosts that share a disk may have the same process ids.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        flush(temporary)  # or after a power cut there might be an empty file of that name
        temporary.replace(path)
        flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_compared(path: Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8, and proves that it holds what was meant.

    Raises:
        OSError: if what is read back is not what was written.
    """
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(data)
    flush(path)
    if path.read_bytes() != data:
        raise OSError(f"{path}: read back differently than written.")


def copy_compared(source: Path, path: Path) -> None:
    """Copies a file's content, making the folder it goes to; the errors are those of `write_compared`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_compared(path, source.read_bytes())


def flush(path: Path) -> None:
    """Returns when the system says that a written file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk: those of new files, and what was renamed or removed."""
    if os.name == "nt":  # folders cannot be opened there
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:  # some file systems, of networks above all, know no such thing
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(opened)


def move_whole(folder: Path, place: Path) -> None:
    """Renames a folder whose files are on the disk; returns when its new name is, too."""
    folder.rename(place)
    flush_folder(place.parent)


def check_room(folder: Path, size: int) -> None:
    """Sees that there is room for so many bytes in a folder that is there.

    Raises:
        OSError: ENOSPC, when there is not.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        said = f"{size / 1e6:,.1f} MB are to be written, and {free / 1e6:,.1f} MB are free"
        raise OSError(errno.ENOSPC, said, folder)


def disk_failure(error: BaseException) -> OSError | None:
    """An error as what a disk has said, by whatever library; None for other errors."""
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return error
    if isinstance(error, ValueError) and (code := _TENSORSTORE_CODE.search(str(error))) is not None:
        found = OSError(int(code[1]), os.strerror(int(code[1])))
        return found if found.errno in _REFUSALS else None
    return None


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as Hugging Face does: indented by two, keys sorted, a newline at the end.

    Raises:
        OSError: if what is read back is not what was written.
    """
    write_compared(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _open_to_readers(folder: Path, umask: int) -> None:
    """Gives every file the permissions that new files have; a library may make its for the owner only."""
    mode = 0o666 & ~umask
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def _umask_in(folder: Path) -> int:
    """From a new file: `os.umask` tells it only by changing it, also for other threads that make files meanwhile."""
    probe = folder / ".umask"
    probe.touch(mode=0o777)
    mode = probe.stat().st_mode
    probe.unlink()
    return 0o777 & ~mode
