"""The live view of a run: one line that is drawn anew on a terminal, plain lines everywhere else."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from lodos.tracking.live_line import LiveLine, fitted_lines
from lodos.tracking.time_left import TimeLeft, clock_face

SECONDS_BETWEEN_LINES = 10.0
NOTABLE_WAIT = 0.1
"""Waiting for data is shown when it takes more than this share of a step."""
_SMOOTHING = 0.9


class ConsoleTracker:
    """Shows loss, held-out loss, learning rate, speed and the time left on standard error.

    Waiting for data is shown where it takes more than a tenth of a step.

    Args:
        total_steps: of the whole run.
        start_step: those done before.
        best: the lowest held-out loss up to there, and its step.
        console: where to; by default standard error.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        best: tuple[float, int] | None = None,
        console: Console | None = None,
    ):
        self._total = total_steps
        self._step = start_step
        self._console = console or Console(stderr=True, highlight=False)
        self._latest: dict[str, float] = {}
        self._smoothed: float | None = None
        self._best = best
        self._last_line = 0.0
        self._time_left = TimeLeft(total_steps)
        # A terminal that knows no cursor gets lines, as a file does.
        self._live = Live(console=self._console, get_renderable=self._line) if self._console.is_interactive else None
        if self._live is not None:
            self._live.start(refresh=True)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._latest.update(metrics)
        if "eval/loss" in metrics:
            self._show_evaluation(metrics["eval/loss"], step)
        if "train/loss" not in metrics:
            return
        loss = metrics["train/loss"]
        self._smoothed = loss if self._smoothed is None else _SMOOTHING * self._smoothed + (1 - _SMOOTHING) * loss
        self._step = step
        self._time_left.step_done(step, metrics.get("train/step_seconds"))
        if self._live is not None:
            self._live.refresh()
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or step == self._total:
            self._last_line = time.monotonic()
            left = self._time_left.seconds()
            numbers = f"loss {self._loss()} (smoothed {_number(self._smoothed)})", *self._numbers()
            parts = [f"step {step}/{self._total}", *numbers, *([f"{clock_face(left)} left"] if left else [])]
            self._console.print("  ".join(parts), soft_wrap=True)

    def log_summary(self, facts: Mapping[str, Any]) -> None:
        trainable, base = facts["trainable_parameters"], facts["parameters"]
        beside = f" beside {base:,} ({100 * trainable / base:.2f} %)" if base else ""
        resumed = f", resumed at step {facts['resumed_from_step']}" if facts["resumed_from_step"] else ""
        efficiency = facts.get("batch_efficiency")
        filled = "" if efficiency is None else f"batches {100 * efficiency:.1f} % full, "
        rows = "streamed" if "training_rows" not in facts else f"{facts['training_rows']:,}"
        self._console.print(
            f"Run {escape(facts['run'])}: {trainable:,} trainable parameters{beside}, "
            f"{rows} training and {facts['held_out_rows']:,} held-out rows, "
            f"{filled}{facts['steps']:,} steps{resumed}",
            soft_wrap=self._live is None,
        )

    def finish(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _show_evaluation(self, loss: float, step: int) -> None:
        # A NaN is below nothing and so never becomes the best.
        if loss < (self._best[0] if self._best else float("inf")):
            self._best = (loss, step)
        parts = [f"step {step}/{self._total}", f"held-out loss {_number(loss)}"]
        if self._best:
            parts.append(f"(best {_number(self._best[0])} at step {self._best[1]})")
        line = "  ".join(parts) if self._live is None else fitted_lines(parts, self._console.width)
        self._console.print(line, soft_wrap=True)

    def _line(self) -> LiveLine:
        left = clock_face(self._time_left.seconds())
        if self._smoothed is None:
            return LiveLine(self._step, self._total, left)
        numbers = [f"smoothed {_number(self._smoothed)}", *self._numbers()]
        return LiveLine(self._step, self._total, left, self._loss(), numbers)

    def _loss(self) -> str:
        return _number(self._latest["train/loss"])

    def _numbers(self) -> list[str]:
        """What there is beside the loss, the most important first."""
        latest = self._latest
        parts = []
        if "eval/loss" in latest:
            parts.append(f"held-out {_number(latest['eval/loss'])}")
        if "train/learning_rate" in latest:
            parts.append(f"lr {latest['train/learning_rate']:.2e}")
        if "train/tokens_per_second" in latest:
            real, trained = latest["train/tokens_per_second"], latest["train/trained_tokens_per_second"]
            parts.append(f"{real:,.0f} tokens/s ({trained:,.0f} trained)")
        wait, step = latest.get("train/data_wait_seconds", 0.0), latest.get("train/step_seconds", 0.0)
        if wait > NOTABLE_WAIT * step:
            parts.append(f"waited {wait:.2f} of {step:.2f} s for data")
        return parts


def _number(loss: float | None) -> str:
    """A loss in few columns, whatever it has come to."""
    assert loss is not None
    return f"{loss:.4e}" if abs(loss) >= 1e5 and loss not in (float("inf"), float("-inf")) else f"{loss:.4f}"
