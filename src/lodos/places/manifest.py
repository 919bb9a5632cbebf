"""How a reader knows that a folder on a store is whole, where nothing can be renamed.

    .lodos-sending.json     goes first, with the id of the upload: what is here is not whole
    ...                     the files; what decides for other tools, such as config.json, after all others
    lodos-manifest.json     goes last, with that id, what made the folder, and size and SHA-256 of each file

Then the first is removed. So a folder with the mark of an upload is whole only beside that upload's manifest, and one
that other tools have put there, without either, is taken as it is.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lodos.errors import UserError
from lodos.places.objects import read_object

if TYPE_CHECKING:
    from upath import UPath

SENDING = ".lodos-sending.json"
MANIFEST = "lodos-manifest.json"
OURS = (SENDING, MANIFEST)


@dataclasses.dataclass(frozen=True)
class SentFile:
    """A file as it was sent."""

    size: int
    sha256: str


def whole_files(place: "UPath", found: Mapping[str, Mapping[str, Any]], *, strictly: bool = False) -> dict[str, str]:
    """The SHA-256 of each file of a folder, by its name, as far as there is a manifest.

    Args:
        found: what `objects_below` gave.
        strictly: whether a folder without a manifest is refused too.

    Raises:
        UserError: when the folder is not whole.
    """
    again = "Send it again, or name another."
    if MANIFEST not in found:
        if SENDING in found or strictly:
            raise UserError(f"{place}: not whole: an upload to it began and did not end. {again}")
        return {}
    try:
        manifest = json.loads(read_object(place / MANIFEST))
        files = {name: SentFile(**file) for name, file in manifest["files"].items()}
        if SENDING in found and json.loads(read_object(place / SENDING))["id"] != manifest["id"]:
            raise UserError(f"{place}: not whole: another upload to it began and did not end. {again}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place / MANIFEST}: damaged: {error}. {again}") from None
    wrong = [name for name, file in files.items() if name not in found or found[name].get("size") != file.size]
    if wrong:
        shown = ", ".join(wrong[:5]) + (" and others" if len(wrong) > 5 else "")
        raise UserError(f"{place}: not whole: {shown} is missing or of another size than {MANIFEST} says. {again}")
    return {name: file.sha256 for name, file in files.items()}
