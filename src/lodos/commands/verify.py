"""`lodos verify`: whether an adapter, a merged model, a checkpoint or a whole run is what it should be."""

import dataclasses
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lodos.commands.base_model import base_converter
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.formats.folder_contents import ADAPTER_CONFIG, MODEL_CONFIG
from lodos.formats.verified import Findings, verified_checkpoint, verified_export
from lodos.formats.verified_exports import is_exported, verified_exports
from lodos.places.manifest import MANIFEST
from lodos.places.objects import fetch_file, objects_below
from lodos.places.place import is_remote, place_of
from lodos.train.checkpoint import names_not_finite

if TYPE_CHECKING:
    from upath import UPath


@dataclasses.dataclass
class VerifyArgs:
    """See whether an adapter, a merged model, an export, a checkpoint or a run is whole, and is what it says it is."""

    path: str = dataclasses.field(metadata={"example": "runs/<id>"})
    """The folder: of an adapter, a model, an export for other programs, a checkpoint, or a run with all of them."""
    base: str | None = None
    """With prompts: the base model, a folder or a hub name; by default the one that the adapter names."""
    merged: str | None = None
    """With prompts: the merged model that the adapter is compared with; by default the two are merged for it."""
    prompt_file: str | None = None
    """Prompts for which the adapter and the merged model are compared: a file as lodos generate takes."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """With prompts: type of the merged weights; by default that of the base model's files."""


def main(argv: list[str]) -> int:
    """Verifies as the arguments say; 0 if nothing is wrong."""
    words = [f"--path={argv[0]}", *argv[1:]] if argv and not argv[0].startswith("-") else argv
    return verify(parse_config(VerifyArgs, words, prog="lodos verify", description=VerifyArgs.__doc__ or ""))


def verify(args: VerifyArgs) -> int:
    """Prints a line for each folder, and what is wrong on lines of its own.

    Returns:
        The exit status: 0, or 1 if anything is wrong.

    Raises:
        UserError: when there is nothing to verify.
    """
    place = place_of(args.path)
    wrong = 0
    found_one = False
    for shown, folder in _on_store(place) if is_remote(place) else _here(place):
        found_one = True
        is_itself = str(shown) == str(place)
        if args.prompt_file is not None and not (is_itself and _kind(folder) == "adapter"):
            raise UserError(f"prompt_file: compares an adapter with its merged model, and {place} is no adapter.")
        found = _verified(folder)
        print(found.line(shown))
        for problem in found.problems:
            print(f"  {problem}", file=sys.stderr)
        wrong += bool(found.problems)
        if args.prompt_file is not None and not wrong:
            _compare(args, folder)
    if not found_one:
        raise UserError(
            f"path: {place}: nothing to verify: no adapter ({ADAPTER_CONFIG}), no model ({MODEL_CONFIG}, *.gguf) and "
            f"no checkpoint ({MANIFEST}) in it."
        )
    return 1 if wrong else 0


def _verified(folder: Path) -> Findings:
    if (kind := _kind(folder)) == "exported":
        return verified_exports(folder)
    if kind != "checkpoint":
        return verified_export(folder)
    found = verified_checkpoint(folder)
    if not found.problems:
        wrong = names_not_finite(folder)
        found.problems += [f"{name}: numbers that are not finite (NaN or infinite)." for name in wrong]
        found.seen.append("every array finite")
    return found


def _here(place: Path) -> Iterator[tuple[Path, Path]]:
    """The folders to look at, twice each."""
    if not place.is_dir():
        raise UserError(f"path: {place}: there is no such folder.")
    for folder in [place] if _kind(place) else sorted(place.rglob("*")):
        if _kind(folder):
            yield folder, folder


def _on_store(place: "UPath") -> Iterator[tuple["UPath", Path]]:
    """The same of a store: each with a copy of it here, which is gone when the next one is asked for."""
    files = objects_below(place)
    marks = (ADAPTER_CONFIG, MODEL_CONFIG, MANIFEST)
    folders = {name.rpartition("/")[0] for name in files if name.rpartition("/")[2] in marks}
    for folder in sorted(folders):
        below = f"{folder}/" if folder else ""
        with tempfile.TemporaryDirectory(prefix="lodos-verified-") as scratch:
            # Of the same name, by which a checkpoint is known.
            copy = Path(scratch) / ((place / folder).name if folder else place.name)
            for name, info in files.items():
                if name.startswith(below) and not name.endswith("/"):
                    file = copy / name.removeprefix(below)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    fetch_file(place / name, file, info["size"])
            if _kind(copy):
                yield place / folder if folder else place, copy


def _kind(path: Path) -> str | None:
    """What a folder is; None for one that has others in it, or is hidden, unfinished or set aside."""
    if any(re.search(r"^\.|\.(corrupt|partial)$", part) for part in path.parts[-2:]) or not path.is_dir():
        return None
    if is_exported(path):
        return "exported"
    if (path / ADAPTER_CONFIG).is_file():
        return "adapter"
    if (path / MODEL_CONFIG).is_file():
        return "model"
    return "checkpoint" if (path / MANIFEST).is_file() or re.fullmatch(r"\d+", path.name) else None


def _compare(args: VerifyArgs, adapter: Path) -> None:
    """Says how the adapter and the merged model differ for the prompts, and through PEFT where it is installed."""
    from lodos.commands.merged_agreement import compared, prompt_ids

    converter = base_converter(args.path, adapter, args.base)
    assert args.prompt_file is not None
    ids = prompt_ids(args.prompt_file, converter, adapter)
    for line in compared(converter, adapter, ids, dtype=args.dtype, merged=args.merged):
        print(line)
