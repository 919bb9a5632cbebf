"""From what a config calls its data to the files that hold it: a file, a folder, a glob, here or on a remote store.

A folder gives every data file below it. Which split a file belongs to is read off its path by the words that Hugging
Face `datasets` goes by (`train-00000-of-00002.parquet`, `data/val.jsonl`). Where `datasets` would leave out the files
that belong to no split, or read a folder of two formats as the commoner one, nothing is chosen here: the error lists
what is there, for a row that is not read is a row lost.

Knows nothing of what is inside the files.
"""

import difflib
import functools
import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lodos.data.reading.saved_to_disk import INFO, SPLITS, STATE, split_names, without_leftovers
from lodos.errors import UserError
from lodos.places.looking import is_file, is_folder
from lodos.places.objects import objects_below, read_object
from lodos.places.place import is_remote, is_url, place_of, shown_path
from lodos.places.store import refusals

if TYPE_CHECKING:
    from upath import UPath

logger = logging.getLogger(__name__)

SUFFIXES = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
"""What a file holds, by its suffix; .gz or .zst may follow those of text."""
COMPRESSIONS = (".gz", ".zst")
DESCRIPTIONS = {"config.json", INFO, "dataset_infos.json", SPLITS, STATE}
"""Files that `datasets` writes beside the data."""

_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_MAGIC = re.compile(r"[*?\[]")
_SHOWN = 5


def kind_of(file: str) -> str | None:
    """json, csv, parquet or arrow, by the suffix; None when that says nothing."""
    path = Path(urlsplit(file).path if is_http(file) else file)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return SUFFIXES.get(path.suffix.lower())


def is_http(path: str) -> bool:
    """Whether it is a web address, where `?` is no wildcard and nothing can be listed."""
    return path.startswith(("http://", "https://"))


def local_path(path: str) -> Path:
    """A local path or `file://` URL as a path, `~` resolved."""
    return Path(path.removeprefix("file://")).expanduser()


def is_hub_id(path: str) -> bool:
    """Whether `path` can only be a data set of the hub: it is spelled like one, and nothing here is so called."""
    return bool(_HUB_ID.fullmatch(path)) and kind_of(path) is None and not os.path.exists(path)


def find_files(path: str, split: str | None = None) -> list[str]:
    """The data files that `path` names, sorted.

    Args:
        path: a file, a folder (with all below it) or a glob, local or a URL that fsspec knows. A file of that very
            name goes before a glob.
        split: take only the files of this split. None takes all files of a glob; of a folder, the files of its only
            split, or of `train` among several.

    Raises:
        UserError: when nothing is there, when a folder holds no data or several formats, or when the split is not
            there or is not clear. It lists what was found.
    """
    found, base = _found_remote(path) if is_url(path) else _found_local(path)
    if not base:
        if found in ([path], [str(local_path(path))]):
            if split is not None:
                raise UserError(
                    f"{shown_path(path)}: split {split!r}: a single file has no splits. Leave out the split."
                )
            return found
        found = without_leftovers(matched := found, _is_there, _content)
        if not found:
            raise UserError(f"{path}: what it matches is none of the data set's files: {_listed(matched, '')}.")
        return _of_split(found, split, _fixed_part(path), path) if split is not None else found
    if os.path.join(base, SPLITS) in found:
        return _of_saved_splits(found, base, split, path)
    data = without_leftovers(filter(_is_data, found), set(found).__contains__, _content)
    if not data:
        raise UserError(
            f"{path}: no data in this folder, which holds {_listed(found, base) or 'no files'}. "
            f"Files of data end in {', '.join(SUFFIXES)}, the texts also in .gz or .zst after that."
        )
    if others := [file for file in found if not _is_data(file) and os.path.basename(file) not in DESCRIPTIONS]:
        _say(f"{path}: passed over what are no files of data: {_listed(others, base)}")
    chosen = _of_split(data, split, base, path) if split is not None else _of_default_split(data, base, path)
    by_kind = {kind_of(file): file for file in reversed(chosen)}
    if len(by_kind) > 1:
        raise UserError(
            f"{path}: this folder holds several formats: {_listed(sorted(by_kind.values()), base)}. They may be the "
            f"same rows twice. Say which with a glob, such as {os.path.join(path, '*' + _suffix(chosen[0]))!r}."
        )
    return chosen


def _of_saved_splits(found: Sequence[str], base: str, split: str | None, path: str) -> list[str]:
    """The files of one split of a `DatasetDict` that was saved; a split is a folder of that very name."""
    names = split_names(base, _content)
    if split is None and len(names) > 1 and "train" in names:
        _say(f"{path}: took the split train of {', '.join(names)}")
    chosen = split or (names[0] if len(names) == 1 else "train")
    if chosen not in names:
        asked = f"split {split!r}: there is none of that name" if split else "which of its splits is meant"
        raise UserError(f"{path}: {asked}, of {', '.join(names)}. Name one as `split`.")
    folder = os.path.join(base, chosen, "")
    inside = [file for file in found if file.startswith(folder)]
    files = without_leftovers(filter(_is_data, inside), set(inside).__contains__, _content)
    if not files:
        raise UserError(f"{path}: {SPLITS} lists the split {chosen}, whose folder holds no data. Copy it again.")
    return files


@functools.cache
def _say(what: str) -> None:
    """Files are looked up more than once, and that is said once."""
    logger.info("%s", what)


def _is_data(file: str) -> bool:
    return kind_of(file) is not None and os.path.basename(file) not in DESCRIPTIONS


def _is_there(file: str) -> bool:
    return is_file(remote_place(file)) if is_url(file) else os.path.isfile(file)


def _content(file: str) -> bytes:
    if not is_url(file):
        return Path(file).read_bytes()
    return read_object(remote_place(file))


def _found_local(path: str) -> tuple[list[str], str]:
    """The files, and the folder they were searched in ("" when they were named)."""
    place = str(local_path(path))
    if "\0" in place:
        raise UserError(f"{path!r}: cannot be read: the name holds a NUL character.")
    if os.path.isdir(place):
        return sorted(_walk(place)), place
    if os.path.isfile(place):
        return [place], ""
    if os.path.exists(place):
        raise UserError(f"{path}: neither a file nor a folder, and data is read more than once. Save it to a file.")
    if not _MAGIC.search(place):
        raise UserError(
            f"{path}: there is no such file (looked in {Path.cwd()}{_nearest_names(place)}). Give a file, a folder, a "
            "glob, a URL, or the name of a data set on the Hugging Face hub."
        )
    found = _matches(place)
    if not found:
        raise UserError(
            f"{path}: no file matches (looked in {Path.cwd()}{_nearest_names(place)}).{_on_brackets(place)}"
        )
    return found, ""


def _matches(pattern: str) -> list[str]:
    return sorted(file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file))


def _nearest_names(place: str) -> str:
    """What the innermost folder of `place` that is there holds, the nearest names first."""
    folder, name = os.path.dirname(place), os.path.basename(place)
    while folder and not os.path.isdir(folder):
        folder, name = os.path.dirname(folder), os.path.basename(folder)
    try:
        there = sorted(entry for entry in os.listdir(folder or ".") if not entry.startswith("."))
    except OSError:
        return ""
    near = dict.fromkeys([*difflib.get_close_matches(name, there, n=_SHOWN, cutoff=0.5), *there])
    return f"; {folder or 'it'} holds {_listed(near, '') or 'nothing'}"


def _on_brackets(pattern: str) -> str:
    """What to write where a name with brackets in it was taken for a pattern: [1] is one character, a 1."""
    if not re.search(r"\[.*\]", pattern):
        return ""
    literal = re.sub(r"\[(?=[^\]]+\])", "[[]", pattern)
    found = _matches(literal)
    advice = f"which finds {_listed(found, '')}" if found else "if the brackets are part of a name"
    return f" In a pattern [...] stands for one of the characters between the brackets. Write {literal!r}, {advice}."


def _walk(folder: str) -> Iterator[str]:
    """The files below a folder, those behind links too, but none that is hidden."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:  # a link to a folder above itself has no end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(root, name) for name in files if not name.startswith("."))


def _found_remote(path: str) -> tuple[list[str], str]:
    if is_http(path):
        return [path], ""
    place = remote_place(path)
    with refusals(None, place):
        if is_file(place):
            return [path], ""
        if is_folder(place):
            return _files_below(place), str(place).rstrip("/")
        found = _matches_remote(path) if _MAGIC.search(path) else []
    if not found:
        raise UserError(f"{shown_path(path)}: nothing is there.")
    return found, ""


def _matches_remote(pattern: str) -> list[str]:
    from fsspec.utils import glob_translate

    folder = _MAGIC.split(pattern)[0].rpartition("/")[0]
    if folder.endswith(":/"):
        raise UserError(f"{pattern}: the name of a bucket is no pattern. Write it out.")
    wanted = re.compile(glob_translate(pattern))
    # Not fsspec's own glob, which leaves out folders that could not be listed.
    return [file for file in _files_below(remote_place(folder)) if wanted.match(file)]


def _files_below(folder: "UPath") -> list[str]:
    found = objects_below(folder)
    return [f"{str(folder).rstrip('/')}/{name}" for name, info in found.items() if info.get("type") != "directory"]


def remote_place(path: str) -> "UPath":
    """The place of a path for which `is_url`."""
    place = place_of(path)
    assert is_remote(place)
    return place


def _of_split(files: Sequence[str], split: str, base: str, path: str) -> list[str]:
    same = _SPLIT_OF_WORD.get(split)
    word = re.compile(rf"(?<![^\W_]){re.escape(split)}(?![^\W_])", re.IGNORECASE)
    chosen = [f for f in files if (_split_of(f, base) == same if same else word.search(_below(f, base)))]
    if not chosen:
        raise UserError(f"{path}: split {split!r}: no file is named so, of {_listed(files, base)}.")
    return chosen


def _of_default_split(files: Sequence[str], base: str, path: str) -> list[str]:
    of_split: dict[str | None, list[str]] = {}
    for file in files:
        of_split.setdefault(_split_of(file, base), []).append(file)
    if len(of_split) == 1:
        return list(files)
    lines = [f"  {split or 'no split'}: {_listed(found, base)}" for split, found in of_split.items()]
    if None in of_split or "train" not in of_split:
        raise UserError(
            "\n".join(
                [f"{path}: which of its splits is meant?", *lines, "Name one as `split`, or give a file or glob."]
            )
        )
    _say("\n".join([f"{path}: took the split train of", *lines]))
    return of_split["train"]


def _split_of(file: str, base: str) -> str | None:
    """The split that the last telling word of the path below `base` stands for."""
    words = re.split(r"[-._ 0-9/\\]+", _below(file, base).lower())
    return next((_SPLIT_OF_WORD[word] for word in reversed(words) if word in _SPLIT_OF_WORD), None)


def _below(file: str, base: str) -> str:
    return file.removeprefix(base).lstrip("/\\")


def _fixed_part(pattern: str) -> str:
    """The folders of a glob before its first wildcard, whose names say nothing about the split of a file."""
    return _MAGIC.split(str(local_path(pattern)) if not is_url(pattern) else pattern)[0].rpartition("/")[0]


def _suffix(file: str) -> str:
    name = os.path.basename(file)
    return name[name.index(".") :]


def _listed(files: Iterable[str], base: str) -> str:
    names = [_below(file, base) for file in files]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
