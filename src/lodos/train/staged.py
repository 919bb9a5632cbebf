"""Checkpoints on stores that Orbax does not write to: written here, and each sent whole when it is.

Orbax and TensorStore write to local disks and gs:// by themselves, from all hosts at once. Elsewhere a step is a folder
with a manifest, sent behind the training; one whose sending was cut short is no checkpoint, and is cleared away.
"""

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from lodos import hosts
from lodos.errors import UserError
from lodos.files import cache_folder
from lodos.places.fetching import fetched_folder
from lodos.places.manifest import MANIFEST
from lodos.places.objects import objects_below
from lodos.places.place import Place, is_remote
from lodos.places.sending import remove_folder, send_folder
from lodos.places.store import NothingThereError

if TYPE_CHECKING:
    from typing_extensions import TypeIs
    from upath import UPath

_WRITTEN_BY_ORBAX = ("gs", "gcs")


def staged(place: Place, *, keep: int, stays: Callable[[int], bool]) -> "Staged | None":
    """What stands between Orbax and a store that it does not write to; None where it does.

    Raises:
        UserError: with several hosts, each of which would have only its own part of the arrays.
    """
    if not _is_staged(place):
        return None
    refuse_together(place)
    return Staged(place, keep=keep, stays=stays)


def refuse_together(place: Place) -> None:
    """Refuses several hosts a store that Orbax does not write to.

    Raises:
        UserError: each of them would have only its own part of the arrays.
    """
    if hosts.count() > 1 and _is_staged(place):
        raise UserError(
            f"trainer.checkpointer.base_path: {place}: {hosts.count()} hosts write a checkpoint together, which "
            f"{place.protocol}:// cannot do: each has a part of the arrays. Give it a shared folder, or gs://; "
            "what else the run saves may stay where it is."
        )


class Staged:
    """A local folder in which the newest checkpoint of the store is, and what is written goes there."""

    def __init__(self, place: "UPath", *, keep: int, stays: Callable[[int], bool]):
        self._place = place
        self._keep = keep
        self._stays = stays
        parent = cache_folder() / "checkpoints"
        parent.mkdir(parents=True, exist_ok=True)
        # Removed when this is, or at the end of Python.
        self._scratch = tempfile.TemporaryDirectory(prefix="staged-", dir=parent, ignore_cleanup_errors=True)
        self.folder = Path(self._scratch.name)
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="lodos-checkpoint")
        self._sending: Future[None] | None = None
        if steps := self._steps():
            newest = str(max(steps))
            shutil.copytree(fetched_folder(place / newest, strictly=True), self.folder / newest)

    def send(self, step: int, *, when: Callable[[], None]) -> None:
        """Sends the folder of a step behind the training, after `when()`, and removes steps that are not kept."""

        def work() -> None:
            when()
            send_folder(self.folder / str(step), self._place / str(step))
            for old in sorted(self._steps())[: -self._keep]:
                if not self._stays(old):
                    remove_folder(self._place / str(old))

        self._sending = self._sender.submit(work)

    def wait(self) -> None:
        """Returns when what was to be sent is there.

        Raises:
            OSError: when it could not be sent.
        """
        if self._sending is not None:
            sending, self._sending = self._sending, None
            sending.result()

    def remove_all(self) -> None:
        """Removes every checkpoint of the store, and what was left of others."""
        remove_folder(self._place)

    def _steps(self) -> list[int]:
        """Those of the store that are whole."""
        try:
            found = objects_below(self._place)
        except NothingThereError:
            return []
        names = [name.removesuffix(f"/{MANIFEST}") for name in found if name.endswith(f"/{MANIFEST}")]
        return [int(name) for name in names if name.isdigit()]


def _is_staged(place: Place) -> "TypeIs[UPath]":
    return is_remote(place) and place.protocol not in _WRITTEN_BY_ORBAX
