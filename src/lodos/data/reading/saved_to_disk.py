"""Folders that `datasets` has written: which of their files are the rows.

    saved/                          alpaca/0.0.0/<hash>/           of the cache of `datasets`
      dataset_dict.json               dataset_info.json
      train/                          alpaca-train.arrow
        state.json                    cache-22396a4692521005.arrow
        data-00000-of-00001.arrow
        cache-22396a4692521005.arrow

`state.json` lists the files that `save_to_disk` wrote. Beside them `map` and `filter` leave what they computed, a
`cache-*.arrow` each, which holds rows of the same columns and is none of the data.

Knows nothing of where the files lie: it is given a way to read them.
"""

import posixpath
import re
from collections.abc import Callable, Iterable
from typing import Any

from lodos.errors import UserError
from lodos.json_files import parse_json

STATE = "state.json"
SPLITS = "dataset_dict.json"
INFO = "dataset_info.json"

_LEFTOVER = re.compile(r"(cache-[0-9a-f]{8,}.*|tmp\w+)\.arrow")

Read = Callable[[str], bytes]
"""The content of a file."""


def without_leftovers(files: Iterable[str], is_there: Callable[[str], bool], read: Read) -> list[str]:
    """The files that are rows: in a folder that `save_to_disk` wrote those of its `state.json`, in that order.

    Args:
        files: data files.
        is_there: whether there is such a file in their folders.
        read: the content of one.

    Raises:
        UserError: for a `state.json` that cannot be read, or that names a file which is not there.
    """
    of_folder: dict[str, list[str]] = {}
    for file in files:
        of_folder.setdefault(posixpath.dirname(file), []).append(file)
    kept = []
    for folder, found in of_folder.items():
        names = state_files(folder, read) if is_there(posixpath.join(folder, STATE)) else None
        if names is not None:
            missing = [name for name in names if not is_there(posixpath.join(folder, name))]
            if missing:
                raise UserError(
                    f"{folder}: {STATE} names files that are not there: {', '.join(missing)}. Copy the folder again."
                )
            chosen = set(found)
            kept += [file for name in names if (file := posixpath.join(folder, name)) in chosen]
            kept += [file for file in found if not file.endswith(".arrow")]
        elif is_there(posixpath.join(folder, INFO)):
            kept += [file for file in found if not _LEFTOVER.fullmatch(posixpath.basename(file))]
        else:
            kept += found
    return kept


def state_files(folder: str, read: Read) -> list[str] | None:
    """The names of the files that `state.json` lists; None when it is not one of `datasets`.

    Raises:
        UserError: when it cannot be read, or asks for what is not done here.
    """
    place = posixpath.join(folder, STATE)
    state = _object(place, read)
    if "_data_files" not in state:
        return None
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise UserError(
            f"{place}: its rows are chosen by a file of indices, which is not read. Load it with "
            "datasets.load_from_disk and save it again."
        )
    try:
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (TypeError, KeyError):
        raise UserError(f"{place}: _data_files is no list of files.") from None
    if not names:
        raise UserError(f"{folder}: {STATE} lists no files, so the data set has no rows.")
    if outside := [name for name in names if posixpath.basename(name) != name]:
        raise UserError(f"{place}: names files outside its folder: {', '.join(outside)}.")
    return names


def split_names(folder: str, read: Read) -> list[str]:
    """The splits that a `dataset_dict.json` lists, each a folder beside it.

    Raises:
        UserError: when it cannot be read or lists none.
    """
    place = posixpath.join(folder, SPLITS)
    names = _object(place, read).get("splits")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{place}: lists no splits.")
    return names


def _object(place: str, read: Read) -> dict[str, Any]:
    try:
        value = parse_json(read(place))
    except (OSError, ValueError) as error:
        raise UserError(f"{place}: cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{place}: not a JSON object.")
    return value
