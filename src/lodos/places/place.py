"""The one type for a path that a user names: `pathlib.Path` here, `upath.UPath` on whatever store fsspec knows.

Both have `/`, `name`, `parent`, `exists`, `glob` and `open`, so most code need not ask which it has. What writes or
reads much does: a store has no rename and fails now and then, which is what the rest of this package is for.

Nobody else makes a path of a text that a user wrote: `Path("gs://bucket/x")` would be a local folder named `gs:`.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from lodos.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import TypeIs
    from upath import UPath

Place: TypeAlias = Union[Path, "UPath"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)")
_SECRETS = re.compile(
    r"(https?://)(?:[^\s/@]*@)?([^\s?#'\"]*)(?:[?#][^\s'\"]*)?"  # a user alone may be a token; signatures
    r"|([A-Za-z][A-Za-z0-9+.-]*://[^\s/@:'\"]*):[^\s/@'\"]*(@)"
)
_SILENCE = 60.0
"""Seconds without a byte after which a web server, or Google's, is given up."""
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}


def place_of(path: "str | os.PathLike[str] | UPath") -> Place:
    """Where `path` is: a local path with `~` resolved, or a place on the store that its scheme names. Asks nobody.

    Raises:
        UserError: for a scheme that nobody knows, or whose package is not installed, with what to install.
    """
    if isinstance(path, Path):
        path = os.fspath(path)  # that was made of a URL is none any more, and is refused below
    text = path if isinstance(path, str) else str(path)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://")).expanduser()
    match = _SCHEME.match(text)  # a drive of Windows is a single letter
    if match is None:
        return Path(text).expanduser()
    scheme = match[1].lower()
    if not match[2]:
        raise UserError(f"{text}: a path of {scheme} begins with {scheme}://, with two slashes.")
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        how = f"Run: pip install 'lodos[{extra}]'" if extra else f"It is another package's: {error}"
        raise UserError(f"{text}: what reads {scheme}:// is not installed. {how}") from None
    except ValueError:
        raise UserError(f"{text}: nothing is known that reads {scheme}://. Try gs:// or s3://.") from None
    from upath import UPath

    # Others write to the store meanwhile, so what was listed once is not kept.
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("http", "https", "gs", "gcs"):
        import aiohttp
        from fsspec.config import conf

        # aiohttp ends whatever takes five minutes, and gcsfs nothing; here, what is silent for one.
        silence = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
        if scheme in ("http", "https"):
            options["client_kwargs"] = {"timeout": silence}
        else:  # for Orbax as well, which makes a file system of its own
            conf.setdefault("gcs", {}).setdefault("requests_timeout", silence)
    return UPath(text, **options)


def is_remote(place: Place) -> "TypeIs[UPath]":
    """Whether it lies on a store."""
    return not isinstance(place, Path)


def is_url(text: str) -> bool:
    """Whether `place_of` would give a place on a store."""
    return not text.startswith("file://") and _SCHEME.match(text) is not None


def shown_path(text: str) -> str:
    """A path, or an error text with URLs in it, without the passwords and signatures that a URL may carry."""
    return _SECRETS.sub(lambda match: "".join(filter(None, match.groups())), text)
