"""Saves that the disk refuses: full, read-only, taken away.

Training goes on without them, since what is in memory is worth more than what could not be written, and each is tried
again when it is due next. A run whose last save of something failed says so at its end, with an exit code of its own.
"""

import logging
from collections.abc import Callable
from typing import Any

from lodos.files import disk_failure

logger = logging.getLogger(__name__)

_last: tuple[str, ...] = ()


class FailedSaves:
    """What of a run could not be saved."""

    def __init__(self) -> None:
        self.count = 0
        """How many saves have failed."""
        self._failing: dict[str, int] = {}

    @property
    def last(self) -> list[str]:
        """What was not saved when it was tried last, and of which step."""
        return [f"{what} of step {step}" for what, step in self._failing.items()]

    def attempt(self, what: str, step: int, save: Callable[[], Any]) -> bool:
        """Whether `save()` has done it. Only what a disk refuses is forgiven."""
        try:
            save()
        except Exception as error:
            refused = disk_failure(error)
            if refused is None:
                raise
            self.count += 1
            self._failing[what] = step
            logger.warning(
                "step %d: %s was not saved: %s: %s. Training goes on; the next save tries again (%d failed so far).",
                step,
                what,
                refused.filename or "the disk",
                refused.strerror,
                self.count,
            )
            return False
        self._failing.pop(what, None)
        return True


def note_unsaved(unsaved: list[str]) -> None:
    """Remembers what the last run of this process could not save."""
    global _last
    _last = tuple(unsaved)


def unsaved() -> tuple[str, ...]:
    """What the last run of this process could not save."""
    return _last
