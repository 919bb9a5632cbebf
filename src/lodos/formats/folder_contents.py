"""What a folder holds, for whoever was given another one than they wanted: adapters, models, and what to write.

A run's folder, the folder of its adapters, a checkpoint to resume from, an adapter where a model is wanted: each is an
easy mistake, and the right folder is near.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from lodos.errors import UserError
from lodos.formats.foreign_folders import foreign_weights, refuse_foreign
from lodos.formats.hub import is_folder, model_folder
from lodos.formats.safetensors import INDEX_NAME
from lodos.places import looking
from lodos.places.looking import is_file, is_there, names_in
from lodos.places.place import Place, is_remote, place_of
from lodos.places.store import refusals

ADAPTER_CONFIG = "adapter_config.json"
MODEL_CONFIG = "config.json"
_DEPTH = 3
_SHOWN = 8
_CHECKPOINT_MARKS = ("_CHECKPOINT_METADATA", "train_state")


def adapter_folder(name_or_path: str) -> Path:
    """The local folder of an adapter, downloaded if it is a hub name.

    Raises:
        UserError: when it is not there, or is something else, with what to write.
    """
    folder = model_folder(name_or_path)
    if (folder / ADAPTER_CONFIG).is_file():
        return folder
    name = shlex.quote(name_or_path)
    if (folder / MODEL_CONFIG).is_file():
        raise UserError(
            f"{name_or_path}: a whole model, not an adapter: it has {MODEL_CONFIG} and no {ADAPTER_CONFIG}. "
            f"To ask it, write --model {name} in place of --adapter."
        )
    raise UserError(
        f"{name_or_path}: no adapter: it has no {ADAPTER_CONFIG}. {_there(name_or_path, folder, 'adapter')}"
    )


def check_model_folder(name_or_path: str, folder: Path) -> None:
    """Refuses what is no whole model, before anything of it is read.

    Raises:
        UserError: with what it is and what to write.
    """
    name = shlex.quote(name_or_path)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / MODEL_CONFIG).is_file():
        raise UserError(
            f"{name_or_path}: a LoRA adapter, not a whole model: it has {ADAPTER_CONFIG} and no {MODEL_CONFIG}. To ask "
            f"it, write --adapter {name} to lodos generate or chat; to train on, make a whole model of it first: "
            f"lodos merge --adapter {name} --output merged."
        )
    refuse_foreign(folder)
    if not (folder / MODEL_CONFIG).is_file():
        raise UserError(f"{name_or_path}: no model: it has no {MODEL_CONFIG}. {_there(name_or_path, folder, 'model')}")


def check_weights(name_or_path: str, folder: Place) -> None:
    """Refuses a model folder without weights, such as a copy in the hub's cache that was not downloaded whole.

    Raises:
        UserError: with what is there and what to write.
    """
    with refusals("model", folder):
        names = _names(folder)
    has_weights = any(name.endswith(".safetensors") or name == INDEX_NAME for name in names)
    if has_weights or foreign_weights(folder) is not None:
        return  # to whom reads them, who says what is wrong with them
    said = f"{name_or_path}: {folder} has no weights; there {_listed(names)}."
    if str(folder) == name_or_path or is_folder(name_or_path):
        raise UserError(f"{said} Copy its safetensors files there, or give another folder.")
    raise UserError(
        f"{said} It is a copy in the hub's cache that was not downloaded whole. With a connection, write "
        f"hf download {shlex.quote(name_or_path)}; without, give a folder that has all."
    )


def _there(name_or_path: str, folder: Path, wanted: str) -> str:
    place = place_of(name_or_path)
    return _what_is_there(place if is_remote(place) else folder, wanted)  # of one on a store, the cache has a part


def _what_is_there(folder: Place, wanted: str) -> str:
    """What of the wanted kind is in or around a folder, what else, and what to write."""
    is_checkpoint = is_there(folder / _CHECKPOINT_MARKS[0]) or folder.parent.name in (_CHECKPOINT_MARKS)
    around = _run_folder(folder)
    said = []
    if is_checkpoint or folder.name in _CHECKPOINT_MARKS:
        said.append("It holds checkpoints, from which training goes on.")
    for kind, mark in sorted(
        {"adapter": ADAPTER_CONFIG, "model": MODEL_CONFIG}.items(), key=lambda item: item[0] != wanted
    ):
        found = list(_folders_with(mark, folder, _DEPTH))
        place = folder
        if not found and around is not None:
            place, found = around, list(_folders_with(mark, around, _DEPTH))
        if found:
            names = [str(path)[len(str(place)) :].strip("/") for path in sorted(found, key=_by_worth)]
            what = f"{kind}s" if len(names) > 1 else kind
            said.append(
                f"{place} has the {what} {_joined(names)}: write --{kind} {shlex.quote(str(place / names[0]))}."
            )
            if kind == wanted:
                return " ".join(said)
    return " ".join(said) or f"There {_listed(_names(folder))}."


def _run_folder(folder: Place) -> Place | None:
    """The run that a checkpoint's folder is part of."""
    return next((path.parent for path in (folder, *folder.parents) if path.name == "train_state"), None)


def _folders_with(mark: str, folder: Place, depth: int) -> Iterator[Place]:
    try:
        children = [folder / name for name in names_in(folder, "[!.]*") if looking.is_folder(folder / name)]
    except OSError:
        return
    for child in children:
        if is_file(child / mark):
            yield child
        elif depth > 1:
            yield from _folders_with(mark, child, depth - 1)


def _by_worth(path: Place) -> tuple[bool, list[int], str]:
    """The best first, then the latest."""
    steps = [-int(number) for number in re.findall(r"\d+", path.name)]
    return path.name != "best", steps, str(path)


def _names(folder: Place) -> list[str]:
    return names_in(folder, "[!.]*")


def _listed(names: list[str]) -> str:
    return f"{'are' if len(names) > 1 else 'is'} {_joined(names)}" if names else "is nothing"


def _joined(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
