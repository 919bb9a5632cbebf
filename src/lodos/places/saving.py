"""What is saved is whole or not there, wherever it is saved."""

import contextlib
import itertools
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lodos.errors import UserError
from lodos.files import flush_folder, write_whole, written_whole
from lodos.places.manifest import seal_folder
from lodos.places.objects import remove_object, write_object
from lodos.places.place import Place, is_remote, place_of
from lodos.places.sending import remove_folder, send_folder
from lodos.places.store import refusals

_ATTEMPTS = 5
_LONGEST_SHOWN = 300


@contextmanager
def saved_whole(path: "str | Place") -> Iterator[Path]:
    """Yields an empty local folder that becomes `path`, replacing what was there, on a clean exit.

    It gets a manifest. Here it changes places with what was there; to a store it is sent then.

    Raises:
        OSError: when the store fails, however often it is asked.
    """
    place = place_of(path)
    if not is_remote(place):
        with written_whole(place) as folder:
            yield folder
            seal_folder(folder)
        return
    with tempfile.TemporaryDirectory(prefix="lodos-sent-") as scratch:
        folder = Path(scratch) / (place.name or "folder")
        folder.mkdir()
        yield folder
        send_folder(folder, place)


def save_text(place: Place, text: str) -> None:
    """Writes a text file, UTF-8: until it is whole, what was there stays.

    Raises:
        OSError: when it cannot be written.
    """
    if is_remote(place):
        write_object(place, text.encode())
    else:
        write_whole(place, text)


def remove_whole(place: Place) -> None:
    """Removes a folder, which is not seen half removed."""
    if is_remote(place):
        remove_folder(place)
        return
    leaving = place.with_name(f".{place.name}.{uuid.uuid4().hex}.partial")
    place.rename(leaving)
    flush_folder(place.parent)
    shutil.rmtree(leaving, ignore_errors=True)


def check_writable(setting: str, place: Place) -> None:
    """Sees that we may write below `place`, with a small file that is removed again, as are folders made for it.

    Raises:
        UserError: that names the setting, when there is no such bucket, something else than a folder is in the way, or
            it may not be written.
    """
    name = f".lodos-probe-{uuid.uuid4().hex}"
    if is_remote(place):
        probe = place / name
        with refusals(setting, place):
            write_object(probe, b"lodos\n")
            remove_object(probe)
        return
    try:
        _probe(place, name)
    except (OSError, ValueError) as error:
        why = _in_the_way(place) or f"it cannot be written: {getattr(error, 'strerror', None) or error}"
        raise UserError(f"{setting}: {_shown(place)}: {why}. Name another folder.") from None


def check_all_writable(places: Mapping[str, Place]) -> None:
    """`check_writable` for each place by its setting; on stores, those below another are not asked for again.

    Raises:
        UserError: that lists all which may not be written.
    """
    asked: list[str] = []
    problems = []
    for setting, place in places.items():
        if is_remote(place):
            if any(str(place).startswith(f"{above}/") for above in asked):
                continue
            asked.append(str(place))
        try:
            check_writable(setting, place)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def _probe(folder: Path, name: str) -> None:
    folder = folder.absolute()
    for attempt in range(_ATTEMPTS):
        missing = list(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"lodos\n")
            (folder / name).unlink()
            return
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:  # else another host has removed what it had made for its own
                raise
        finally:
            for path in missing:
                with contextlib.suppress(OSError):  # it holds something now
                    path.rmdir()


def _in_the_way(place: Path) -> str | None:
    """What is there in place of a folder, at the place or above it."""
    try:
        for path in (place, *place.parents):
            if path.is_symlink() and not path.exists():
                return f"{_shown(path)} is a link to {_shown(path.readlink())}, where nothing is"
            if path.exists():
                return None if path.is_dir() else f"{_shown(path)} is a file, not a folder"
    except (OSError, ValueError):  # whoever asks says it
        pass
    return None


def _shown(path: Path) -> str:
    text = str(path)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
