"""The numbers of each step, on their way from the device to whoever wants them.

The host asks for the numbers of a step when it has dispatched the next one:

    dispatch 1    dispatch 2    fetch 1, report 1    dispatch 3    fetch 2, report 2    ...

So a report comes while the step after it is running, and no step waits for it.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from lodos.train.agreement import Agreement
from lodos.train.step import StepMetrics


@dataclasses.dataclass(frozen=True)
class StepReport:
    """The numbers of a step."""

    step: int
    """Counted from 1."""
    loss: float
    """Of the step's batch, before its update; nats a token."""
    grad_norm: float
    """Global norm of the gradient of the trainable parameters, before clipping."""
    trained_tokens: float
    """The sum of the loss weights."""
    tokens: int
    """Tokens that are not filler."""
    seconds: float
    """Since the numbers of the step before came; without what hooks did in between."""
    data_wait_seconds: float
    """Spent waiting for the batch, partly while the step before was still counted; 0 where the device was still busy
    when the batch came."""
    watched: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What the trainer's `watch` says of the model after the step."""
    finite: bool = True
    """Whether loss and gradient were; if not, nothing was updated."""


ReportHook = Callable[[StepReport], Any]


class Reports:
    """Fetches the numbers of one step after the next has been dispatched, and hands them to the report hooks.

    Args:
        on_nonfinite: is told of a step that was not finite, after the hooks; it raises what ends the run.
    """

    def __init__(self, on_nonfinite: ReportHook) -> None:
        self._hooks: list[ReportHook] = []
        self._on_nonfinite = on_nonfinite
        self._pending: tuple[int, StepMetrics, float] | None = None
        self._since = 0.0
        self.latest: StepReport | None = None
        """The last one that was delivered."""
        self.agreement = Agreement()
        """What the hosts have agreed on, by the steps that were delivered."""

    def add_hook(self, fn: ReportHook) -> None:
        self._hooks.append(fn)

    def start(self) -> None:
        """A run begins: nothing is pending, and the clock starts."""
        self._pending = self.latest = None
        self.agreement = Agreement()
        self.restart_clock()

    def restart_clock(self) -> None:
        """What happened since the last step counts for no step."""
        self._since = time.perf_counter()

    @property
    def device_is_busy(self) -> bool:
        """Whether the step that was dispatched last is still running."""
        return self._pending is not None and not self._pending[1].loss.is_ready()  # pyright: ignore[reportAttributeAccessIssue]

    def dispatched(self, step: int, metrics: StepMetrics, data_wait_seconds: float) -> None:
        """Takes note of a step that the device has been given, and delivers the one before it."""
        before, self._pending = self._pending, (step, metrics, data_wait_seconds)
        if before is not None:
            self._deliver(*before)

    def flush(self) -> None:
        """Delivers what is pending."""
        before, self._pending = self._pending, None
        if before is not None:
            self._deliver(*before)

    def _deliver(self, step: int, metrics: StepMetrics, data_wait_seconds: float) -> None:
        found = jax.device_get(metrics)
        now = time.perf_counter()
        report = StepReport(
            step=step,
            loss=float(found.loss),
            grad_norm=float(found.grad_norm),
            trained_tokens=float(found.trained_tokens),
            tokens=int(found.tokens),
            seconds=now - self._since,
            data_wait_seconds=data_wait_seconds,
            watched={name: float(value) for name, value in found.watched.items()},
            finite=bool(found.finite),
        )
        self._since, self.latest = now, report
        if found.agreed is not None:
            self.agreement.heard(found.agreed)
        # Told before it is refused: a log that hides the step which ended the run would be of no use.
        for fn in self._hooks:
            fn(report)
        if not report.finite:
            self._on_nonfinite(report)
