"""`lodos verify`: whether an adapter, a merged model, a checkpoint or a whole run is what it should be."""

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lodos.commands.base_model import base_converter
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.formats.folder_contents import ADAPTER_CONFIG, MODEL_CONFIG
from lodos.formats.verified import Findings, verified_checkpoint, verified_export
from lodos.places.manifest import MANIFEST
from lodos.places.place import is_remote, place_of


@dataclasses.dataclass
class VerifyArgs:
    """See whether an adapter, a merged model, a checkpoint or a run is whole, and is what it says it is."""

    path: str = dataclasses.field(metadata={"example": "runs/<id>"})
    """The folder: of an adapter, a model, a checkpoint, or a run with all of them."""
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
    if is_remote(place):
        raise UserError(f"path: {place}: on a store. Copy it here first; what is written there is read back when sent.")
    if not place.is_dir():
        raise UserError(f"path: {place}: there is no such folder.")
    adapter = place if (place / ADAPTER_CONFIG).is_file() else None
    if args.prompt_file is not None and adapter is None:
        raise UserError(f"prompt_file: compares an adapter with its merged model, and {place} is no adapter.")
    wrong = 0
    for folder, found in _found(place):
        print(found.line(folder))
        for problem in found.problems:
            print(f"  {problem}", file=sys.stderr)
        wrong += bool(found.problems)
    if not wrong and adapter is not None and args.prompt_file is not None:
        _compare(args, adapter)
    return 1 if wrong else 0


def _found(place: Path) -> Iterator[tuple[Path, Findings]]:
    folders = [place] if _kind(place) else [path for path in sorted(place.rglob("*")) if _kind(path)]
    if not folders:
        raise UserError(
            f"path: {place}: nothing to verify: no adapter ({ADAPTER_CONFIG}), no model ({MODEL_CONFIG}) and no "
            f"checkpoint ({MANIFEST}) in it."
        )
    for folder in folders:
        yield folder, verified_checkpoint(folder) if _kind(folder) == "checkpoint" else verified_export(folder)


def _kind(path: Path) -> str | None:
    """What a folder is; None for one that has others in it, or is hidden, unfinished or set aside."""
    if any(re.search(r"^\.|\.(corrupt|partial)$", part) for part in path.parts[-2:]) or not path.is_dir():
        return None
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
