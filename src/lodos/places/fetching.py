"""Files of a store as local files, kept for the next time under a name that changes when they do.

What is large and read once, such as the weights of a base model, does not come here: `places/ranges.py` reads it where
it is.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodos.errors import UserError
from lodos.files import cache_folder, written_whole
from lodos.places.manifest import OURS, whole_files
from lodos.places.objects import fetch_file, objects_below, version
from lodos.places.store import NothingThereError

if TYPE_CHECKING:
    from upath import UPath

KEPT_BYTES = 4 * 2**30
"""The fetched folders that were not used for longest go when all take more than this."""
_IN_USE_SECONDS = 24 * 3600


def fetched_folder(
    place: "UPath", wanted: Callable[[str], bool] = lambda name: True, *, strictly: bool = False
) -> Path:
    """The files of a folder on a store that are wanted, by their names in it, in a local folder that nobody changes.

    Args:
        strictly: whether the folder must have been written by lodos, and be whole.

    Raises:
        UserError: when nothing is there, or it is not whole.
        OSError: when the store fails.
    """
    found, digests = _whole(place, strictly=strictly)
    names = [name for name in found if name not in OURS and wanted(name)]
    versions = repr([(str(place), name, version(found[name]), digests.get(name)) for name in names])
    kept = cache_folder() / "fetched"
    folder = kept / hashlib.sha256(versions.encode()).hexdigest()[:32]
    if not folder.is_dir():
        _make_room(kept, sum(found[name]["size"] for name in names))
        with written_whole(folder) as partial:
            _fetch(place, partial, names, found, digests)
    os.utime(folder)
    return folder


def fetch_folder(place: "UPath", folder: Path) -> None:
    """Copies all files of a folder that lodos wrote to a local one; the errors are those of `fetched_folder`."""
    found, digests = _whole(place, strictly=True)
    _fetch(place, folder, [name for name in found if name not in OURS], found, digests)


def is_whole_there(place: "UPath") -> bool:
    """Whether lodos wrote a folder there, whole."""
    try:
        _whole(place, strictly=True)
    except (UserError, NothingThereError):
        return False
    return True


def _whole(place: "UPath", *, strictly: bool) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What the store says of a folder's files, and the digests of its manifest."""
    found = objects_below(place)
    if not found:
        raise UserError(f"{place}: nothing is there.")
    return found, whole_files(place, found, strictly=strictly)


def _fetch(place: "UPath", folder: Path, names: Sequence[str], found: Any, digests: Mapping[str, str]) -> None:
    for name in names:
        fetch_file(place / name, folder / name, found[name]["size"])
        if name in digests and _sha256(folder / name) != digests[name]:
            raise UserError(f"{place / name}: is not what its manifest says. Write it again.")


def _make_room(kept: Path, needed: int) -> None:
    folders = sorted(kept.glob("[!.]*"), key=lambda path: path.stat().st_mtime) if kept.is_dir() else []
    sizes = {folder: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders}
    total = sum(sizes.values()) + needed
    for folder, size in sizes.items():
        if total <= KEPT_BYTES or time.time() - folder.stat().st_mtime < _IN_USE_SECONDS:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
