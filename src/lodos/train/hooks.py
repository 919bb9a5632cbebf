"""Functions called after every n-th step, and once at the end.

A process may end between a checkpoint and the other hooks of its step, or a signal may cut one short: a hook that can
tell whether it was done is then made up for before the next step, so that a resumed run leaves what any other does.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from lodos import hosts
from lodos.train.failed_saves import FailedSaves
from lodos.train.reports import StepReport
from lodos.train.state import TrainerState


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """What a hook is told."""

    state: TrainerState
    """After the step."""
    step: int
    """Optimizer steps done, this one included."""
    report: StepReport | None
    """The step's numbers; None when no step was done: none was left, or the run was stopped before."""
    loader: Any = None
    """Of the batches that are trained on."""

    @property
    def model(self) -> Any:
        return self.state.model

    @property
    def loss(self) -> float:
        """Of the step's batch, before its update."""
        return float("nan") if self.report is None else self.report.loss


class CutShort(Exception):  # noqa: N818 (no error)
    """A hook gives up, because a signal has come for the run to stop."""


Hook = Callable[[StepInfo], Any]
When = int | Callable[[int], bool]
"""After which steps: every n-th, or those of which a function says so. It may be asked more than once."""


@dataclasses.dataclass
class _Entry:
    fn: Hook
    every: When
    is_done: Callable[[int], bool] | None
    when_stopped: bool
    saves: str | None
    last_step: int | None = None

    def is_due(self, step: int) -> bool:
        return step % self.every == 0 if isinstance(self.every, int) else self.every(step)


class Hooks:
    """Hooks in the order they were added."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self.failed = FailedSaves()

    def add(
        self,
        fn: Hook,
        *,
        every: When = 1,
        is_done: Callable[[int], bool] | None = None,
        when_stopped: bool = True,
        saves: str | None = None,
    ) -> None:
        """Calls `fn` after every step whose number `every` divides, or for which it is true, and at the end.

        Args:
            is_done: whether an earlier process has done it for a step.
            when_stopped: whether it runs also where a signal has stopped the run.
            saves: what it saves, if the run goes on where a disk refuses it.
        """
        if isinstance(every, int) and every < 1:
            raise ValueError(f"every: {every} must be at least 1.")
        self._entries.append(_Entry(fn, every, is_done, when_stopped, saves))

    def due(self, step: int) -> bool:
        """Whether some hook is to run after this step."""
        return any(entry.is_due(step) for entry in self._entries)

    def run(self, info: StepInfo, *, end: bool = False, stopped: bool = False) -> bool:
        """Runs the hooks that are due; at the end those that have not run for this step yet.

        Args:
            stopped: whether a signal has stopped the run: what takes its time is left for when it goes on.

        Returns:
            whether all came to their end; one that is cut short keeps none of the others from running.
        """
        due = [entry for entry in self._entries if end or entry.is_due(info.step)]
        return self._run([entry for entry in due if entry.when_stopped or not stopped], info)

    def note_done(self, step: int) -> None:
        """A run goes on from this step: what an earlier process has done of it is not done again, not at the end."""
        for entry in self._entries:
            if entry.is_done is not None and entry.is_done(step):
                entry.last_step = step

    def undone(self, step: int) -> bool:
        """Whether hooks were due after this step that an earlier process has not done."""
        return any(self._undone(step))

    def make_up(self, info: StepInfo) -> bool:
        """Runs those; whether all came to their end."""
        return self._run(self._undone(info.step), info)

    def _undone(self, step: int) -> list[_Entry]:
        known = [entry for entry in self._entries if entry.is_done is not None and entry.is_due(step)]
        return [entry for entry in known if entry.last_step != step and entry.is_done and not entry.is_done(step)]

    def _run(self, entries: list[_Entry], info: StepInfo) -> bool:
        are_whole = True
        for entry in entries:
            if entry.last_step != info.step:
                entry.last_step = info.step
                try:
                    # Where hosts save together, one that gives up would leave the others waiting for it.
                    if entry.saves is None or hosts.count() > 1:
                        entry.fn(info)
                    else:
                        self.failed.attempt(entry.saves, info.step, functools.partial(entry.fn, info))
                except CutShort:
                    are_whole = False
        return are_whole
