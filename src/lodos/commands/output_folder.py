"""Where a verb writes a folder: a place that can be written, in which nothing else is lost."""

from collections.abc import Mapping
from pathlib import Path

from lodos.errors import UserError
from lodos.places.looking import is_there
from lodos.places.place import Place, is_remote, place_of
from lodos.places.saving import check_writable


def output_folder(output: str, *, overwrite: bool, made_of: str) -> Place:
    """The place called `output`, which may be written.

    Args:
        overwrite: whether a folder that is there may be replaced.
        made_of: a file, or a glob, that every folder has which the verb has written: no other one is replaced.

    Raises:
        UserError: when it may not be written, is there, or holds something else.
    """
    place = place_of(output)
    check_writable("output", place)
    if is_there(place) and not overwrite:
        raise UserError(f"output: {place} exists. Give another folder, or --overwrite to replace it.")
    if not is_remote(place) and place.is_dir() and any(place.iterdir()) and not any(place.glob(made_of)):
        raise UserError(f"output: {place} is no folder of a model, and would be lost with what it holds. Give another.")
    return place


def refuse_to_lose(sources: Mapping[str, Path], output: Place) -> None:
    """Raises a `UserError` when one of the folders that are read lies in the one that is replaced."""
    for what, folder in sources.items():
        if not is_remote(output) and folder.resolve().is_relative_to(output.resolve()):
            raise UserError(f"output: {output} holds the {what}, which would be lost. Give another folder.")
