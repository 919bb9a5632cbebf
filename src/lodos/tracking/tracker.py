"""What every tracker does."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lodos.places.place import Place

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes the numbers of a run."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Numbers that belong to a step, by names such as `train/loss` and `eval/loss`."""
        ...

    def log_summary(self, facts: Mapping[str, Any]) -> None:
        """Facts of the run as a whole; `config`, if it is there, is the mapping of its settings."""
        ...

    def finish(self) -> None:
        """Nothing more will come."""
        ...


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker is opened for."""

    id: str
    folder: Path
    """The run's own, which is there; one of this machine's, where the run's is on a store."""
    first_step: int
    """Steps done before it was resumed; 0 for a run that begins, whatever there was of its name."""
    logged_step: int = 0
    """The last step that was logged before; beyond `first_step` if the run was killed."""
    stored: Place | None = None
    """The run's folder, where that is on a store."""

    @property
    def place(self) -> Place:
        """The run's folder, wherever it is."""
        return self.folder if self.stored is None else self.stored


class Trackers:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker]):
        self._trackers = trackers

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        for tracker in self._trackers:
            tracker.log(metrics, step=step)

    def log_summary(self, facts: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log_summary(facts)

    def finish(self) -> None:
        for tracker in self._trackers:
            tracker.finish()


class Forgiving:
    """A tracker whose failures stop nothing: the first is said, and each later number is tried again."""

    def __init__(self, name: str, tracker: Tracker):
        self._name = name
        self._tracker = tracker
        self._warned = False

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._try(lambda: self._tracker.log(metrics, step=step))

    def log_summary(self, facts: Mapping[str, Any]) -> None:
        self._try(lambda: self._tracker.log_summary(facts))

    def finish(self) -> None:
        self._try(self._tracker.finish)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            if not self._warned:
                warn_of(self._name, error)
            self._warned = True


def warn_of(name: str, error: Exception) -> None:
    """Says that a tracker has failed and that it does not matter."""
    logger.warning(
        "%s: %s: %s. Training goes on; every number is in the run's log.jsonl.", name, type(error).__name__, error
    )
