"""What is where, here or on a store, asked like everything else: a store that fails is not one that has nothing."""

from fnmatch import fnmatch

from lodos.places.place import Place, is_remote
from lodos.places.store import NothingThereError, ask


def is_there(place: Place) -> bool:
    """Whether there is a file or a folder.

    Raises:
        OSError: when the store refuses.
        StoreFailingError: when it fails.
    """
    return place.exists() if not is_remote(place) else _kind(place) is not None


def is_file(place: Place) -> bool:
    """Whether there is a file; the errors are those of `is_there`."""
    return place.is_file() if not is_remote(place) else _kind(place) == "file"


def is_folder(place: Place) -> bool:
    """Whether there is a folder; the errors are those of `is_there`."""
    return place.is_dir() if not is_remote(place) else _kind(place) == "directory"


def names_in(folder: Place, pattern: str = "*") -> list[str]:
    """The names of what is in a folder, sorted; [] where there is none. The errors are those of `is_there`."""
    try:
        if is_remote(folder):
            names = [str(name).rstrip("/").rpartition("/")[2] for name in ask(folder, "ls", detail=False)]
        else:
            names = [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if name and fnmatch(name, pattern))


def _kind(place: "Place") -> str | None:
    try:
        return ask(place, "info")["type"]  # pyright: ignore[reportArgumentType]
    except NothingThereError:
        return None
