"""What is saved is whole or not there, wherever it is saved."""

import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lodos.errors import UserError
from lodos.files import write_whole, written_whole
from lodos.places.manifest import seal_folder
from lodos.places.objects import objects_below, remove_object, write_object
from lodos.places.place import Place, is_remote, place_of
from lodos.places.sending import send_folder
from lodos.places.store import NothingThereError, refusals


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


def check_writable(setting: str, place: Place) -> None:
    """Sees that a store lets us write below `place`, with an object that is removed again; asks nobody of a local one.

    Raises:
        UserError: that names the setting, when there is no such bucket or it may not be written.
    """
    if not is_remote(place):
        return
    probe = place / f".lodos-probe-{uuid.uuid4().hex}"
    with refusals(setting, place):
        write_object(probe, b"lodos\n")
        remove_object(probe)


def check_all_writable(places: Mapping[str, Place]) -> None:
    """`check_writable` for each place by its setting; those below another are not asked for again.

    Raises:
        UserError: that lists all which may not be written.
    """
    asked: list[str] = []
    problems = []
    for setting, place in places.items():
        if any(str(place).startswith(f"{above}/") for above in asked):
            continue
        asked.append(str(place))
        try:
            check_writable(setting, place)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def is_there(place: Place) -> bool:
    """Whether there is a file or a folder.

    Raises:
        OSError: when the store fails.
    """
    if not is_remote(place):
        return place.exists()
    try:
        return bool(objects_below(place))  # a file is found below itself, under no name
    except NothingThereError:
        return False
