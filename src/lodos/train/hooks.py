"""Functions called after every n-th step, and once at the end."""

import dataclasses
from collections.abc import Callable
from typing import Any

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


Hook = Callable[[StepInfo], Any]
When = int | Callable[[int], bool]
"""After which steps: every n-th, or those of which a function says so. It may be asked more than once."""


@dataclasses.dataclass
class _Entry:
    fn: Hook
    every: When
    last_step: int | None = None

    def is_due(self, step: int) -> bool:
        return step % self.every == 0 if isinstance(self.every, int) else self.every(step)


class Hooks:
    """Hooks in the order they were added."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def add(self, fn: Hook, *, every: When = 1) -> None:
        """Calls `fn` after every step whose number `every` divides, or for which it is true, and at the end."""
        if isinstance(every, int) and every < 1:
            raise ValueError(f"every: {every} must be at least 1.")
        self._entries.append(_Entry(fn, every))

    def due(self, step: int) -> bool:
        """Whether some hook is to run after this step."""
        return any(entry.is_due(step) for entry in self._entries)

    def run(self, info: StepInfo, *, end: bool = False) -> None:
        """Runs the hooks that are due; at the end those that have not run for this step yet."""
        for entry in self._entries:
            due = end or entry.is_due(info.step)
            if due and entry.last_step != info.step:
                entry.last_step = info.step
                entry.fn(info)
