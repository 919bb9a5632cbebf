"""How a reader knows that a folder is whole, and that its files are what was written.

    lodos-manifest.json     size and SHA-256 of each file, and whatever else of the folder is worth proving; goes last

Checkpoints and exports have one, here and on stores. It has a digest of itself, so that no bit of it changes unseen.

On a store, where nothing can be renamed, there is one more:

    .lodos-sending.json     goes first, with the id of the upload: what is here is not whole
    ...                     the files; what decides for other tools, such as config.json, after all others
    lodos-manifest.json     with that id

Then the first is removed. So a folder with the mark of an upload is whole only beside that upload's manifest, and one
that other tools have put there, without either, is taken as it is.
"""

import dataclasses
import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodos.errors import UserError
from lodos.files import flush, flush_folder, write_compared
from lodos.places.objects import objects_below, read_object, sha256_of_object
from lodos.places.place import Place, is_remote
from lodos.version import __version__

if TYPE_CHECKING:
    from upath import UPath

SENDING = ".lodos-sending.json"
MANIFEST = "lodos-manifest.json"
OURS = (SENDING, MANIFEST)
_LAYOUT = 2
_SHOWN = 5


class DamagedError(Exception):
    """A manifest that is not there, or not as it was written. The text says which of the two."""


@dataclasses.dataclass(frozen=True)
class FileDigest:
    """A file as it was written."""

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a folder held when it was whole."""

    files: Mapping[str, FileDigest]
    """By their paths in the folder."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What else is proved along with them, in JSON's types."""
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    made_by: str = f"lodos {__version__}"

    def encode(self) -> bytes:
        files = {name: dataclasses.asdict(file) for name, file in self.files.items()}
        fields = {"version": _LAYOUT, "id": self.id, "made_by": self.made_by, "files": files, "facts": dict(self.facts)}
        return _json({**fields, "sha256": hashlib.sha256(_json(fields)).hexdigest()})

    @classmethod
    def decode(cls, content: bytes) -> "Manifest":
        """
        Raises:
            DamagedError: when it is not, byte by byte, what `encode` gave.
        """
        try:
            fields = json.loads(content)
            files = {name: FileDigest(**file) for name, file in fields["files"].items()}
            found = cls(files, fields["facts"], fields["id"], fields["made_by"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DamagedError(f"{MANIFEST} is damaged") from None
        if found.encode() != content:
            raise DamagedError(f"{MANIFEST} is damaged")
        return found


def digested(folder: Path) -> dict[str, FileDigest]:
    """Size and SHA-256 of every file below a local folder, but a manifest, read back from where it is."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: _digest_of(path) for name, path in files.items() if name not in OURS}


def seal_folder(folder: Path, facts: Mapping[str, Any] | None = None) -> Manifest:
    """Puts every file of a local folder on the disk, reads it back, and writes the manifest after all of them."""
    for path in sorted(folder.rglob("*")):
        flush_folder(path) if path.is_dir() else flush(path)
    files, facts = digested(folder), facts or {}
    # The same files have the same manifest.
    identity = hashlib.sha256(_json({"facts": facts, "sha256": {name: file.sha256 for name, file in files.items()}}))
    manifest = Manifest(files, facts, identity.hexdigest()[:32])
    write_compared(folder / MANIFEST, manifest.encode())
    flush_folder(folder)
    return manifest


def read_manifest(folder: Place) -> Manifest:
    """The manifest of a folder, here or on a store.

    Raises:
        DamagedError: when there is none, or it is damaged.
    """
    try:
        content = read_object(folder / MANIFEST) if is_remote(folder) else (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise DamagedError(f"it has no {MANIFEST}") from None
    except OSError as error:
        if is_remote(folder):
            raise
        raise DamagedError(f"{MANIFEST} cannot be read: {error.strerror}") from None
    return Manifest.decode(content)


def problems(folder: Place) -> list[str]:
    """What is not in a folder as its manifest says, each file by its name; empty where it is whole. It reads all.

    Raises:
        OSError: when a store fails.
    """
    try:
        manifest = read_manifest(folder)
    except DamagedError as error:
        return [str(error)]
    if is_remote(folder):
        found = objects_below(folder)
        digests = {
            name: FileDigest(found[name]["size"], sha256_of_object(folder / name, found[name]["size"]))
            for name in manifest.files
            if name in found
        }
    else:
        digests = {name: _found_digest(folder / name) for name in manifest.files}
    return [said for name, meant in manifest.files.items() if (said := _difference(name, digests.get(name), meant))]


def whole_files(place: "UPath", found: Mapping[str, Mapping[str, Any]], *, strictly: bool = False) -> dict[str, str]:
    """The SHA-256 of each file of a folder on a store, by its name, as far as there is a manifest.

    Args:
        found: what `objects_below` gave.
        strictly: whether a folder without a manifest is refused too.

    Raises:
        UserError: when the folder is not whole.
    """
    again = "Send it again, or name another."
    if MANIFEST not in found:
        if SENDING in found or strictly:
            raise UserError(f"{place}: not whole: an upload to it began and did not end. {again}")
        return {}
    try:
        manifest = read_manifest(place)
        if SENDING in found and json.loads(read_object(place / SENDING))["id"] != manifest.id:
            raise UserError(f"{place}: not whole: another upload to it began and did not end. {again}")
    except (ValueError, KeyError, TypeError, DamagedError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{place}: {error}. {again}") from None
    wrong = [name for name, file in manifest.files.items() if name not in found or found[name].get("size") != file.size]
    if wrong:
        shown = ", ".join(wrong[:_SHOWN]) + (" and others" if len(wrong) > _SHOWN else "")
        raise UserError(f"{place}: not whole: {shown} is missing or of another size than {MANIFEST} says. {again}")
    return {name: file.sha256 for name, file in manifest.files.items()}


def _difference(name: str, found: FileDigest | str | None, meant: FileDigest) -> str | None:
    if found is None or isinstance(found, str):
        return f"{name} {found or 'is missing'}"
    if found.size != meant.size:
        return f"{name} has {found.size} bytes, {meant.size} were written"
    return None if found.sha256 == meant.sha256 else f"{name} holds other bytes than were written"


def _found_digest(path: Path) -> FileDigest | str | None:
    """What of a file is found, or what keeps it from being read; None where it is missing."""
    try:
        return _digest_of(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _digest_of(path: Path) -> FileDigest:
    with path.open("rb") as file:
        return FileDigest(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
