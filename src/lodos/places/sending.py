"""A local folder to a store, whole or not at all for whoever reads it with lodos. How: `places/manifest.py`."""

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lodos.places.manifest import MANIFEST, OURS, SENDING, FileDigest, Manifest, read_manifest
from lodos.places.objects import drop_unfinished, objects_below, remove_object, send_file, write_object
from lodos.places.store import NothingThereError

if TYPE_CHECKING:
    from upath import UPath

DECISIVE = ("adapter_config.json", "config.json")
"""Files by which other tools take a folder for an adapter or a model."""


def send_folder(folder: Path, place: "UPath") -> None:
    """Makes what is at `place` equal to a local folder; what was there before, and is not in it, is removed.

    What the folder's own manifest says goes along, if it has one.

    Raises:
        OSError: when the store fails; what is there then is not taken for whole, and the next upload clears it away.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in paths.items() if name not in OURS}
    digests = {name: _digests(path) for name, path in files.items()}
    listed = {name: FileDigest(path.stat().st_size, digests[name][1]) for name, path in files.items()}
    manifest = Manifest(listed)
    if MANIFEST in paths:
        own = read_manifest(folder)
        if own.files != listed:
            raise OSError(f"{folder}: read back differently than written.")
        manifest = dataclasses.replace(manifest, facts=own.facts)
    try:
        before = objects_below(place)
    except NothingThereError:  # of a bucket too: then the next request says so
        before = {}
    write_object(place / SENDING, _mark(manifest))
    stale = [name for name in before if name not in files and name not in OURS]
    for name in (MANIFEST, *(name for name in DECISIVE if name in before), *stale):
        if name in before:
            remove_object(place / name)
    drop_unfinished(place)
    for name in sorted(files, key=lambda name: (name in DECISIVE, name)):
        md5, sha256 = digests[name]
        send_file(files[name], place / name, md5=md5, sha256=sha256)
    write_object(place / MANIFEST, manifest.encode())
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


def _mark(manifest: Manifest) -> bytes:
    fields = {"id": manifest.id, "time": time.time(), "made_by": manifest.made_by}
    return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode()
