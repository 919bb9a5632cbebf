"""JSON that others have written: read within bounds, and its fields looked at before anybody uses them.

A file of settings may come from anywhere, with whatever a hand or a tool has left in it: a list where an object
belongs, a number of 100,000 digits, a nesting that no later step can walk. What is wrong is said by file and field, all
at once.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lodos.config_secrets import shown
from lodos.errors import UserError
from lodos.git_lfs import refuse_pointers

MOST_BYTES = 256 * 2**20
"""Of a file: the longest in use are tokenizers of some 30 MB."""
DEEPEST = 100
"""Lists and objects within one another."""
_LARGEST = 2**62


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: when the file is missing, is not JSON, or goes beyond the bounds, naming it.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a file.")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}.") from None
    try:
        return parse_json(data)
    except ValueError as error:
        refuse_pointers(path)
        raise UserError(f"{path}: not valid JSON: {error}.") from None


def parse_json(data: bytes | str, **options: Any) -> Any:
    """The value of JSON text.

    Args:
        options: those of `json.loads`.

    Raises:
        ValueError: when it is not JSON, or goes beyond the bounds; the text says why, without a full stop.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"longer than {MOST_BYTES // 2**20} MiB")
    try:
        # As text: given bytes, json would take UTF-16 and UTF-32 too.
        value = json.loads(data.decode("utf-8") if isinstance(data, bytes) else data, **options)
    except RecursionError:
        raise ValueError(f"lists and objects stand in one another more than {DEEPEST} deep") from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for holder in level
            if isinstance(holder, dict | list)
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"lists and objects stand in one another more than {DEEPEST} deep")


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a field may hold."""

    what: str
    """In words: "a whole number"."""
    fits: Callable[[Any], bool]

    def __or__(self, other: "Kind") -> "Kind":
        return Kind(f"{self.what} or {other.what}", lambda value: self.fits(value) or other.fits(value))


def is_whole(value: Any, least: int = -_LARGEST, most: int = _LARGEST) -> bool:
    """Whether it is an integer, and no boolean, within bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any) -> bool:
    """Whether it is a finite number that fits into a float, and no boolean."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def whole(least: int, most: int) -> Kind:
    """An integer from `least` to `most`."""
    return Kind(f"a whole number from {least} to {most}", lambda value: is_whole(value, least, most))


def list_of(kind: Kind) -> Kind:
    """A list of what is of the kind."""
    return Kind(f"a list, each {kind.what}", lambda value: isinstance(value, list) and all(map(kind.fits, value)))


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode()) | True
    except UnicodeEncodeError:  # half a surrogate pair
        return False


ANYTHING = Kind("anything", lambda _: True)
TEXT = Kind("text", _is_text)
NAME = Kind("a name or a path", lambda value: _is_text(value) and 0 < len(value) <= 1000 and value.isprintable())
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a finite number", is_number)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
NAMES = list_of(TEXT)
TOKEN_IDS = whole(0, 2**31 - 1) | list_of(whole(0, 2**31 - 1))
"""One token or several."""


def read_object(path: Path, kinds: Mapping[str, Kind] | None = None) -> dict[str, Any]:
    """Reads a JSON object, whose fields are of their kinds as far as they are there and not null.

    Raises:
        UserError: as `read_json` does, and naming each field that is of another kind.
    """
    value = read_json(path)
    refuse_fields(path, field_problems(value, kinds or {}))
    return value


def field_problems(value: Any, kinds: Mapping[str, Kind]) -> list[str]:
    """What to say of an object and its fields, of which null is as good as none: `name: what is wrong.`"""
    if not isinstance(value, dict):
        return [f"must be a JSON object, found {shown(value)}."]
    return [
        f"{name}: must be {kind.what}, found {shown(value[name], name)}."
        for name, kind in kinds.items()
        if value.get(name) is not None and not kind.fits(value[name])
    ]


def refuse_fields(path: object, problems: Iterable[str]) -> None:
    """
    Raises:
        UserError: if there are any, each with the file in front.
    """
    if lines := [f"{path}: {problem}" for problem in problems]:
        raise UserError("\n".join(lines))
