"""One request to a store, tried again while it can still come right, and never waited for without end.

fsspec and the stores' own packages retry some failures and have time-outs of their own, each different ones. Here the
rule is one: 429, 5xx, resets and time-outs are tried again, `ATTEMPTS` times, each wait twice as long as the last; what
is missing or refused is said at once. What comes out is an `OSError` where something is to be mended, and otherwise a
`StoreFailingError`, which is none: whoever tells the user what is wrong with a file does not take it for that.
"""

import asyncio
import errno
import logging
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from lodos.errors import UserError
from lodos.places.place import Place, is_remote, shown_path

if TYPE_CHECKING:
    from upath import UPath

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 6
FIRST_WAIT = 0.5
"""Seconds before the second attempt; twice as many before each further one."""
SECONDS = 60.0
"""How long a request may take, besides its bytes."""
BYTES_PER_SECOND = 500_000
"""Slower than that, it is taken for stalled."""

_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_LASTING = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_STATUS_OF_TENSORSTORE = re.compile(r"\[http_response_code='(\d+)'\]")
"""In the text of its errors, which are `ValueError`s."""


class StoreError(OSError):
    """A store that did not do what it was asked, and will not."""


class StoreFailingError(Exception):
    """A store that was asked again and again, and may do it later: a failure of the infrastructure."""


class NothingThereError(FileNotFoundError):
    """No such object, or no such bucket."""


class RefusedError(PermissionError):
    """The store does not let us, or there are no credentials."""


SAID = (StoreError, StoreFailingError, NothingThereError, RefusedError)
"""Errors whose text is for the user."""


def ask(place: "UPath", method: str, *args: Any, size: int = 0, before: tuple[Any, ...] = (), **kwargs: Any) -> Any:
    """Calls a method of the place's fsspec file system with the place's path, again while that can help.

    Args:
        args: what follows the path.
        size: bytes that travel, for the time that is given.
        before: what goes before the path.

    Raises:
        NothingThereError: when there is no such object or bucket.
        RefusedError: when it is refused, or there are no credentials.
        StoreError: when it fails otherwise.
        StoreFailingError: when it fails each time, in a way that may pass.
    """
    return ask_system(place, method, *before, place.path, *args, size=size, **kwargs)


def ask_system(place: "UPath", method: str, *args: Any, size: int = 0, **kwargs: Any) -> Any:
    """The same without the path among the arguments."""
    seconds = SECONDS + size / BYTES_PER_SECOND
    return retried(str(place), lambda: _once(place.fs, method, args, kwargs, seconds))


def retried(what: str, call: Callable[[], T]) -> T:
    """What `call` gives, called again while its failure may pass; the errors are those of `ask`."""
    wait = FIRST_WAIT
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except SAID:
            raise
        except Exception as error:
            if not is_passing(error) or attempt == ATTEMPTS:
                raise _translated(what, error, attempt) from error
            logger.info("%s: %s: %s. Trying again.", shown_path(what), type(error).__name__, shown_path(str(error)))
        time.sleep(wait * random.uniform(0.75, 1.25))
        wait *= 2
    raise AssertionError("unreachable")


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    # First the status: fsspec says of any failure over HTTP that nothing is there.
    for one in _with_causes(error):
        if (status := _status(one)) is not None:
            return status in _PASSING_STATUS
    if any(isinstance(one, socket.gaierror) and one.errno == socket.EAI_NONAME for one in _with_causes(error)):
        return False  # there is no such host
    if any(isinstance(one, TimeoutError) or _of_network(one) for one in _with_causes(error)):
        return True
    return isinstance(error, OSError) and not isinstance(error, _LASTING)


@contextmanager
def failures_of(place: Place) -> Iterator[None]:
    """Turns errors of those who speak to the place's store by themselves, Orbax and TensorStore, into those of `ask`.

    They have tried again before. What has nothing to do with the store goes on as it is.
    """
    try:
        yield
    except SAID:
        raise
    except Exception as error:
        is_of_store = is_passing(error) or any(_status(one) is not None for one in _with_causes(error))
        if not is_remote(place) or not is_of_store:
            raise
        raise _translated(str(place), error, 1) from error


@contextmanager
def refusals(setting: str | None, place: Any) -> Iterator[None]:
    """Turns what a store refuses, or does not have, into an error for the user, who named the place in `setting`.

    What may pass stays a `StoreFailingError`.
    """
    named = "" if setting is None else f"{setting}: "
    try:
        yield
    except (NothingThereError, RefusedError) as error:
        raise UserError(f"{named}{shown_path(str(place))}: {error.strerror}") from None
    except StoreError as error:
        raise UserError(f"{named}{error.strerror}") from None


def _once(system: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], seconds: float) -> Any:
    if not getattr(system, "async_impl", False) or system.asynchronous:
        return getattr(system, method)(*args, **kwargs)
    coroutine = getattr(system, f"_{method}")(*args, **kwargs)
    future = asyncio.run_coroutine_threadsafe(coroutine, system.loop)
    try:
        return future.result(seconds)
    except TimeoutError:
        # Left alone, it might still replace an object after the next attempt has written it.
        future.cancel()
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None


def _translated(what: str, error: Exception, attempts: int) -> Exception:
    said = shown_path(" ".join(str(error).split())).rstrip(".") or type(error).__name__
    what = shown_path(what)
    if is_passing(error):
        tried = f", {attempts} times" if attempts > 1 else ""
        return StoreFailingError(f"{what}: the store failed{tried}: {type(error).__name__}: {said}.")
    status = next((status for one in _with_causes(error) if (status := _status(one)) is not None), None)
    names = {type(one).__name__ for one in _with_causes(error)}
    if status in (401, 403) or isinstance(error, PermissionError) or any("Credentials" in name for name in names):
        return RefusedError(
            errno.EACCES,
            f"the store refuses: {said}. Look at the credentials and what they allow: AWS_PROFILE or "
            "AWS_ACCESS_KEY_ID for s3://, GOOGLE_APPLICATION_CREDENTIALS or gcloud auth application-default login "
            "for gs://.",
        )
    if status == 404 or isinstance(error, FileNotFoundError):
        return NothingThereError(errno.ENOENT, f"nothing is there, or no such bucket: {said}.")
    return StoreError(errno.EIO, f"{what}: the store failed: {type(error).__name__}: {said}.")


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # pyright: ignore[reportAssignmentType]


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of gcsfs, aiohttp, botocore, requests, httpx or TensorStore carries."""
    response = getattr(error, "response", None)
    if isinstance(error, ValueError):
        found = _STATUS_OF_TENSORSTORE.search(str(error))
        status = found[1] if found else None
    elif isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif response is not None:
        status = getattr(response, "status_code", None)
    else:
        status = getattr(error, "status", None)
        if status is None and _package(error) != "aiohttp":  # which has codes of its own for what breaks off
            status = getattr(error, "code", None)
    try:
        return int(status)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None


def _of_network(error: BaseException) -> bool:
    if (package := _package(error)) == "aiohttp" or (isinstance(error, ValueError) and "[curl_code='" in str(error)):
        return True
    words = ("Connect", "Connection", "Timeout", "HTTPClient", "Incomplete", "Streaming")
    return package in ("botocore", "aiobotocore") and any(word in type(error).__name__ for word in words)


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]
