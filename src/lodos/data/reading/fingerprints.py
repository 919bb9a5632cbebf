"""A hash of one file that changes when its content does.

A local file is read and hashed: size and time may stay while the content changes. So is a remote one, unless its store
keeps a hash or a version of the content. fsspec's own `ukey` will not do: over HTTP it takes every file for unchanging,
and elsewhere it often rests on size and time.
"""

import hashlib

from lodos.data.reading.locations import remote_place
from lodos.data.reading.open_file import open_raw
from lodos.errors import UserError
from lodos.places.place import is_url, shown_path
from lodos.places.store import StoreFailingError, ask, refusals

_CONTENT_VERSIONS = (
    "ETag",  # HTTP, S3
    "etag",  # Google Cloud Storage, Azure
    "md5Hash",
    "crc32c",
    "generation",
    "Content-MD5",
    "blob_id",  # Hugging Face
    "sha",  # GitHub
)


def file_fingerprint(file: str) -> str:
    """A hash of the content of a local file or URL, or of what its store says identifies the content; hex.

    Raises:
        UserError: when it cannot be read.
    """
    if is_url(file):
        place = remote_place(file)
        with refusals(None, place):
            info = ask(place, "info")
        versions = [(name, str(info[name])) for name in _CONTENT_VERSIONS if info.get(name)]
        if versions:
            return hashlib.sha256(repr((info.get("size"), versions)).encode()).hexdigest()
    try:
        with open_raw(file) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
    except (UserError, StoreFailingError):
        raise
    except Exception as error:  # of the disk, of whichever remote store
        raise UserError(f"{shown_path(file)}: cannot be read: {shown_path(str(error))}.") from error
