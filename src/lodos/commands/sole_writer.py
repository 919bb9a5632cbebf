"""A run has one writer: its folders are taken before anything is written, and cleared of what a killed one has left."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lodos import hosts
from lodos.files import clear_leftovers
from lodos.places.lock import only_writer
from lodos.places.place import Place, is_remote
from lodos.train.checkpoint_folder import CheckpointFolder
from lodos.train.config import TrainerConfig


@contextmanager
def sole_writer(config: TrainerConfig, written: Mapping[str, Place]) -> Iterator[None]:
    """Within it, no other process writes the run. The hosts of one job are one writer, for whom the first one asks.

    Args:
        written: the folders that the run writes, by their settings.

    Raises:
        UserError: when another process of this machine writes it.
        TakenError: when one of another machine does, or did until a moment ago.
    """
    if not hosts.is_first():
        hosts.wait("the run's folder")
        yield
        return
    with only_writer(config.run_folder):
        for folder in written.values():
            if not is_remote(folder):
                clear_leftovers(folder)
        CheckpointFolder(config.checkpoint_folder).clear_leftovers()
        hosts.wait("the run's folder")
        yield
