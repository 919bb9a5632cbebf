"""The checkpoints of a run in their folder: which are there, which are whole, which go.

    <step>/                  whole when it got this name, or on a store its manifest; see `lodos.places.manifest`
    .<step>.partial/         being written; on a store .lodos-sending-<step>.json says so of <step>/
    <step>.corrupt/          not what its manifest says: set aside, and never removed by lodos; on a store it keeps its
                             name, and has a lodos-corrupt.json

Knows nothing of arrays or of Orbax.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodos.errors import UserError
from lodos.files import clear_leftovers, move_whole
from lodos.places.fetching import is_whole_there
from lodos.places.manifest import (
    MANIFEST,
    SENDING,
    DamagedError,
    FileDigest,
    Manifest,
    problems,
    read_manifest,
    seal_folder,
)
from lodos.places.objects import objects_below, remove_object, sha256_of_object, write_object
from lodos.places.place import Place, is_remote
from lodos.places.saving import remove_whole
from lodos.places.sending import remove_folder, send_folder
from lodos.places.store import NothingThereError

if TYPE_CHECKING:
    from upath import UPath

logger = logging.getLogger(__name__)

CORRUPT = "lodos-corrupt.json"
_PARTIAL = re.compile(r"\.(\d+)\.partial.*")
_CORRUPT = re.compile(r"(\d+)(\.\d+)?\.corrupt")
_SENDING = re.compile(r"\.lodos-sending-(\d+)\.json")
_SHOWN = 5


class CheckpointFolder:
    """The folder of one run's checkpoints, here or on a store."""

    def __init__(self, place: Place):
        self.place = place if is_remote(place) else place.absolute()

    def steps(self) -> list[int]:
        """The checkpoints that are taken for whole, oldest first; nobody has looked into them."""
        if is_remote(self.place):
            files = self._objects()
            named = {name.partition("/")[0] for name in files if name.count("/")}
            cut_short = {match[1] for name in files if (match := _SENDING.fullmatch(name))}
            cut_short |= {name for name in named if f"{name}/{SENDING}" in files}
            names = named - cut_short - {name for name in named if f"{name}/{CORRUPT}" in files}
        else:
            names = {path.name for path in self._children() if path.is_dir()}
        return sorted(int(name) for name in names if name.isdigit())

    def newest_whole(self) -> int | None:
        """The newest checkpoint that is as it was written; those that are not are named and set aside.

        Raises:
            UserError: when there were some, and none is whole.
        """
        for step in reversed(self.steps()):
            if self._is_whole(step):
                return step
        if aside := self.aside():
            raise UserError(
                f"{self.place}: no checkpoint of this run is whole; those that are not as they were written are "
                f"set aside: {', '.join(aside)}. A run does not start over by itself: to begin it anew, write "
                "--trainer.load_checkpoint false; for a new one beside it, another trainer.id."
            )
        return None

    def chosen_whole(self, step: int) -> int:
        """That step, whose checkpoint is there and whole.

        Raises:
            UserError: when it is not, with those that are there.
        """
        steps = self.steps()
        if step not in steps or not self._is_whole(step):
            others = ", ".join(str(other) for other in self.steps()) or "none"
            raise UserError(
                f"trainer.load_checkpoint_step: {step}: {self.place} has no whole checkpoint of this step. There: "
                f"{others}."
            )
        return step

    def aside(self) -> list[str]:
        """The names of those that were set aside."""
        if is_remote(self.place):
            return sorted(name.removesuffix(f"/{CORRUPT}") for name in self._objects() if name.endswith(f"/{CORRUPT}"))
        return sorted(path.name for path in self._children() if _CORRUPT.fullmatch(path.name))

    def manifest(self, step: int) -> Manifest:
        """What a checkpoint says of itself.

        Raises:
            UserError: when it does not say it.
        """
        try:
            return read_manifest(self.place / str(step))
        except DamagedError as error:
            raise UserError(f"{self.place / str(step)}: {error}.") from None

    def clear_leftovers(self) -> None:
        """Removes what writers that were killed have left. Nobody may be writing."""
        if not is_remote(self.place):
            clear_leftovers(self.place)
            for path in self._children():
                if _PARTIAL.fullmatch(path.name):
                    shutil.rmtree(path, ignore_errors=True)
            return
        for name in self._objects():
            if match := _SENDING.fullmatch(name):
                remove_folder(self.place / match[1])
                remove_object(self.place / name)
            elif name.endswith(f"/{SENDING}"):
                folder = (self.place / name).parent
                if is_whole_there(folder):  # its sender was killed before its last word
                    remove_object(self.place / name)
                else:
                    remove_folder(folder)

    # Writing one.

    def begin(self, step: int) -> Place:
        """Where the files of a checkpoint are to be written."""
        if is_remote(self.place):
            remove_folder(self.place / str(step))
            write_object(self._mark(step), json.dumps({"step": step}).encode())
        else:
            self.place.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.place / f".{step}.partial", ignore_errors=True)
        return self.writing(step)

    def writing(self, step: int) -> Place:
        """Where they are being written."""
        return self.place / (str(step) if is_remote(self.place) else f".{step}.partial")

    def commit(self, step: int, facts: Mapping[str, Any]) -> None:
        """Reads back what was written after `begin`, and makes it a checkpoint."""
        if is_remote(self.place):
            place = self.place / str(step)
            found = {name: info["size"] for name, info in objects_below(place).items() if name != MANIFEST}
            files = {name: FileDigest(size, sha256_of_object(place / name, size)) for name, size in found.items()}
            write_object(place / MANIFEST, Manifest(files, facts).encode())
            remove_object(self._mark(step))
            return
        partial, place = self.writing(step), self.place / str(step)
        assert not is_remote(partial)
        assert not is_remote(place)
        seal_folder(partial, facts)
        if place.exists():  # of a run that is done anew
            self.remove(step)
        move_whole(partial, place)

    def give_up(self, step: int) -> None:
        """Removes what was written after `begin` and did not become a checkpoint; on a store the next start does."""
        partial = self.writing(step)
        if not is_remote(partial):
            for path in partial.parent.glob(f".{step}.partial*") if partial.parent.is_dir() else ():
                shutil.rmtree(path, ignore_errors=True)

    def send(self, step: int, folder: Path, facts: Mapping[str, Any]) -> None:
        """Makes a checkpoint of a folder that was written here, and removes it; for stores that Orbax knows not."""
        assert is_remote(self.place)
        seal_folder(folder, facts)
        send_folder(folder, self.place / str(step))
        shutil.rmtree(folder, ignore_errors=True)

    # Removing.

    def keep(self, newest: int, stays: Callable[[int], bool], *, until: int) -> None:
        """Removes those that are neither among the newest nor stay.

        Args:
            until: the step of the one that was written last; it always is the newest.
        """
        steps = [step for step in self.steps() if step <= until]
        for step in steps[:-newest]:
            if not stays(step):
                self.remove(step)

    def remove(self, step: int) -> None:
        """Removes a checkpoint, which is not seen half removed."""
        remove_whole(self.place / str(step))

    def _is_whole(self, step: int) -> bool:
        if not (found := problems(self.place / str(step))):
            return True
        self._set_aside(step, found)
        return False

    def _set_aside(self, step: int, found: Sequence[str]) -> None:
        said = "; ".join(found[:_SHOWN]) + ("; and more" if len(found) > _SHOWN else "")
        folder = self.place / str(step)
        if is_remote(folder):
            write_object(folder / CORRUPT, json.dumps({"found": list(found)}, indent=2).encode())
            logger.warning("%s: not as it was written: %s. It is not used, and %s says so.", folder, said, CORRUPT)
            return
        aside, number = folder.with_name(f"{step}.corrupt"), 1
        while aside.exists():
            number += 1
            aside = folder.with_name(f"{step}.{number}.corrupt")
        move_whole(folder, aside)
        logger.warning("%s: not as it was written: %s. It is set aside as %s.", folder, said, aside.name)

    def _children(self) -> list[Path]:
        assert not is_remote(self.place)
        try:
            return sorted(self.place.iterdir())
        except FileNotFoundError:
            return []

    def _objects(self) -> dict[str, Any]:
        assert is_remote(self.place)
        try:
            return objects_below(self.place)
        except NothingThereError:
            return {}

    def _mark(self, step: int) -> "UPath":
        assert is_remote(self.place)
        return self.place / f".lodos-sending-{step}.json"
