"""What every tracker does."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tracker(Protocol):
    """Takes the numbers of a run."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Numbers that belong to a step, by names such as `train/loss` and `eval/loss`."""
        ...

    def log_summary(self, facts: Mapping[str, Any]) -> None:
        """Facts of the run as a whole."""
        ...

    def finish(self) -> None:
        """Nothing more will come."""
        ...


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
