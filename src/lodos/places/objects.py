"""Objects of a store: listed, read, written and proved to be what was meant.

A store proves an object by the MD5 that it keeps of it: S3 as the ETag of what went up in one piece, Google Cloud
Storage as md5Hash. Where it keeps none, or that of encrypted bytes, the object is read back and compared.
"""

import base64
import errno
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodos.places.place import Place, is_remote, shown_path
from lodos.places.store import NothingThereError, StoreError, ask, ask_system, retried

if TYPE_CHECKING:
    from upath import UPath

logger = logging.getLogger(__name__)

LONGEST_TEXT = 64 * 2**20
"""Bytes of a file that is read as one text."""
_VERSIONS = ("ETag", "etag", "md5Hash", "crc32c", "generation", "mtime", "LastModified", "created", "size")


def objects_below(place: "UPath") -> dict[str, dict[str, Any]]:
    """What the store says of each object of a folder, by its path in it; {} where there is none.

    Raises:
        FileNotFoundError: when there is no such bucket.
    """
    found = ask(place, "find", detail=True) if _finds_by_itself(place) else _listed(place)
    base = place.path.rstrip("/") + "/"
    return {name[len(base) :]: info for name, info in sorted(found.items()) if name.startswith(base)}


def version(info: Mapping[str, Any]) -> str:
    """A text that changes when the object does, as far as its store says."""
    return repr([(name, str(info[name])) for name in _VERSIONS if info.get(name) is not None])


def read_object(place: "UPath", start: int | None = None, end: int | None = None) -> bytes:
    """An object's bytes, or those of a range."""
    size = 0 if start is None or end is None else end - start
    ranged = {} if start is None else {"start": start, "end": end}

    def read() -> bytes:
        data = ask(place, "cat_file", size=size, **ranged)
        if size and len(data) > size:
            raise StoreError(
                errno.EIO,
                f"{shown_path(str(place))}: gives whole files alone. It is to be read here and there: copy it first.",
            )
        if size and len(data) != size:
            raise OSError(f"{place}: gave {len(data)} bytes of the {size} from {start}.")
        return bytes(data)

    return retried(str(place), read)


def write_object(place: "UPath", data: bytes) -> None:
    """Puts an object in its place at once, and proves it.

    Raises:
        OSError: those of `ask`, and when what is read back is not what was written.
    """

    _make_parents(place)

    def send() -> None:
        ask(place, "pipe_file", data, size=len(data))
        if (
            not _is_proved(place, len(data), hashlib.md5(data, usedforsecurity=False).digest())
            and read_object(place) != data
        ):
            raise OSError(f"{place}: read back differently than written.")

    retried(str(place), send)


def send_file(file: Path, place: "UPath", *, md5: bytes, sha256: str) -> None:
    """Sends a local file, in parts where it is large, and proves it; the errors are those of `write_object`."""
    size = file.stat().st_size
    _make_parents(place)

    def send() -> None:
        ask(place, "put_file", before=(str(file),), size=size)
        if not _is_proved(place, size, md5) and sha256_of_object(place, size) != sha256:
            raise OSError(f"{place}: read back differently than written.")

    retried(str(place), send)


def fetch_file(place: "UPath", file: Path, size: int) -> None:
    """Copies an object to a local file."""
    file.parent.mkdir(parents=True, exist_ok=True)

    def fetch() -> None:
        ask(place, "get_file", str(file), size=size)
        if (got := file.stat().st_size) != size:
            raise OSError(f"{place}: {got} bytes came of {size}.")

    retried(str(place), fetch)


def remove_object(place: "UPath") -> None:
    """Removes an object; one that is not there is no error."""
    try:
        ask(place, "rm_file")
    except FileNotFoundError:
        return


def drop_unfinished(place: "UPath") -> None:
    """Drops the parts of large objects below a place whose sending was cut short.

    S3 shows them to no reader, keeps them and bills them. Where dropping them is not allowed they stay.
    """
    if place.protocol not in ("s3", "s3a"):
        return
    bucket, _, key = place.path.partition("/")
    below: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/"}
    try:
        for one in ask_system(place, "call_s3", "list_multipart_uploads", **below).get("Uploads", []):
            of: dict[str, Any] = {"Bucket": bucket, "Key": one["Key"], "UploadId": one["UploadId"]}
            ask_system(place, "call_s3", "abort_multipart_upload", **of)
    except OSError as error:
        logger.debug("%s: parts that were left there were not looked for: %s", place, error)


def sha256_of_object(place: "UPath", size: int) -> str:
    """Of an object of `size` bytes, read in parts; in hexadecimal."""
    digest, step = hashlib.sha256(), 64 * 2**20
    for start in range(0, size, step):
        digest.update(read_object(place, start, min(start + step, size)))
    return digest.hexdigest()


def read_text(path: Place, encoding: str = "utf-8-sig", *, most: int = LONGEST_TEXT) -> str:
    """The text of a file, here or on a store.

    Args:
        most: bytes of it.

    Raises:
        OSError: as `pathlib` does, for stores too; when the file is longer.
        UnicodeDecodeError: when it is none.
    """
    if is_remote(path):
        data = read_object(path)
    else:
        with path.open("rb") as file:
            data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"longer than {most:,} bytes", str(path))
    return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def _finds_by_itself(place: "UPath") -> bool:
    """Whether its file system has a `find` of its own; fsspec's leaves out the folders that could not be listed."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    kind: Any = type(place.fs)
    return kind._find is not AsyncFileSystem._find if place.fs.async_impl else kind.find is not AbstractFileSystem.find


def _listed(place: "UPath") -> dict[str, dict[str, Any]]:
    found, folders = {}, [place.path]
    while folders:
        folder = folders.pop()
        try:
            infos = ask_system(place, "ls", folder, detail=True)
        except NothingThereError:
            continue
        for info in infos:
            if info["type"] != "directory":
                found[info["name"]] = info
            elif info["name"].rstrip("/") != folder.rstrip("/"):
                folders.append(info["name"])
    return found


def _make_parents(place: "UPath") -> None:
    """The folders above, in a file system that has any; an object store has none."""
    if not getattr(place.fs, "async_impl", False):
        place.fs.makedirs(place.parent.path, exist_ok=True)


def _is_proved(place: "UPath", size: int, md5: bytes) -> bool:
    """Whether the store's own digest says that it holds these bytes; False where it says nothing of use."""
    info = ask(place, "info")
    if info.get("size") != size:
        raise OSError(f"{place}: holds {info.get('size')} bytes of {size}.")
    tag = str(info.get("ETag") or "").strip('"')
    return tag == md5.hex() or info.get("md5Hash") == base64.b64encode(md5).decode()
