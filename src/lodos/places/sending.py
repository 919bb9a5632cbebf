"""A local folder to a store, whole or not at all for whoever reads it with lodos. How: `places/manifest.py`."""

import hashlib
import json
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from lodos.places.manifest import MANIFEST, OURS, SENDING
from lodos.places.objects import drop_unfinished, objects_below, remove_object, send_file, write_object
from lodos.places.store import NothingThereError
from lodos.version import __version__

if TYPE_CHECKING:
    from upath import UPath

DECISIVE = ("adapter_config.json", "config.json")
"""Files by which other tools take a folder for an adapter or a model."""


def send_folder(folder: Path, place: "UPath", *, made_by: str = f"lodos {__version__}") -> None:
    """Makes what is at `place` equal to a local folder; what was there before, and is not in it, is removed.

    Raises:
        OSError: when the store fails; what is there then is not taken for whole, and the next upload clears it away.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    digests = {name: _digests(path) for name, path in files.items()}
    upload = uuid.uuid4().hex
    try:
        before = objects_below(place)
    except NothingThereError:  # of a bucket too: then the next request says so
        before = {}
    write_object(place / SENDING, _json({"id": upload, "time": time.time(), "made_by": made_by}))
    stale = [name for name in before if name not in files and name not in OURS]
    for name in (MANIFEST, *(name for name in DECISIVE if name in before), *stale):
        if name in before:
            remove_object(place / name)
    drop_unfinished(place)
    for name in sorted(files, key=lambda name: (name in DECISIVE, name)):
        md5, sha256 = digests[name]
        send_file(files[name], place / name, md5=md5, sha256=sha256)
    listed = {name: {"size": path.stat().st_size, "sha256": digests[name][1]} for name, path in files.items()}
    write_object(place / MANIFEST, _json({"version": 1, "id": upload, "made_by": made_by, "files": listed}))
    remove_object(place / SENDING)


def remove_folder(place: "UPath") -> None:
    """Removes a folder, first what makes it whole."""
    found = objects_below(place)
    for name in sorted(found, key=lambda name: (name != MANIFEST, name in DECISIVE, name)):
        remove_object(place / name)


def _digests(file: Path) -> tuple[bytes, str]:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(2**20):
            md5.update(chunk)
            sha256.update(chunk)
    return md5.digest(), sha256.hexdigest()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
