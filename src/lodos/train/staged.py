"""Checkpoints on stores that Orbax does not write to: written here, and each sent whole when it is.

Orbax and TensorStore write to local disks and gs:// by themselves, from all hosts at once. Elsewhere a step is a folder
that is sent behind the training; one whose sending was cut short is no checkpoint, and is cleared away.
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lodos import hosts
from lodos.errors import UserError
from lodos.files import cache_folder
from lodos.places.fetching import fetched_folder
from lodos.places.place import Place, is_remote
from lodos.processes import Process, this_process

if TYPE_CHECKING:
    from typing_extensions import TypeIs
    from upath import UPath

_WRITTEN_BY_ORBAX = ("gs", "gcs")


def is_staged(place: Place) -> "TypeIs[UPath]":
    """Whether it lies on a store that Orbax does not write to."""
    return is_remote(place) and place.protocol not in _WRITTEN_BY_ORBAX


def refuse_together(place: Place) -> None:
    """Refuses several hosts a store that Orbax does not write to.

    Raises:
        UserError: each of them would have only its own part of the arrays.
    """
    if hosts.count() > 1 and is_staged(place):
        raise UserError(
            f"trainer.checkpointer.base_path: {place}: {hosts.count()} hosts write a checkpoint together, which "
            f"{place.protocol}:// cannot do: each has a part of the arrays. Give it a shared folder, or gs://; "
            "what else the run saves may stay where it is."
        )


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder of this machine to write in; removed with what is returned, or at the end of Python."""
    parent = cache_folder() / "checkpoints"
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob("staged-*"):
        maker = Process.of_tag(left.name)
        if maker is not None and maker.is_gone:  # killed
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"staged-{this_process().tag}-", dir=parent, ignore_cleanup_errors=True)


def local_copy(place: "UPath") -> Path:
    """A checkpoint of the store as a local folder, to be read.

    Raises:
        UserError: when it is not whole.
    """
    return fetched_folder(place, strictly=True)
