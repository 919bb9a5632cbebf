"""The live view of a run: a progress bar on a terminal, plain lines everywhere else."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
        self._console = console or Console(stderr=True, highlight=False)
        self._latest: dict[str, float] = {}
        self._smoothed: float | None = None
        self._best = best
        self._last_line = 0.0
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("train", total=total_steps, completed=start_step, numbers="")
        self._progress.start()

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._latest.update(metrics)
        if "eval/loss" in metrics:
            self._show_evaluation(metrics["eval/loss"], step)
        if "train/loss" not in metrics:
            return
        loss = metrics["train/loss"]
        self._smoothed = loss if self._smoothed is None else _SMOOTHING * self._smoothed + (1 - _SMOOTHING) * loss
        self._progress.update(self._task, completed=step, numbers=self._numbers())
        due = time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or step == self._total
        if not self._console.is_terminal and due:
            self._last_line = time.monotonic()
            self._console.print(f"step {step}/{self._total}  {self._numbers()}{self._time_left()}", soft_wrap=True)

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
            soft_wrap=True,
        )

    def finish(self) -> None:
        self._progress.stop()

    def _show_evaluation(self, loss: float, step: int) -> None:
        # A NaN is below nothing and so never becomes the best.
        if loss < (self._best[0] if self._best else float("inf")):
            self._best = (loss, step)
        best = f"  (best {self._best[0]:.4f} at step {self._best[1]})" if self._best else ""
        self._console.print(
            f"step {step}/{self._total}  held-out loss {loss:.4f}{best}",
            soft_wrap=True,
        )

    def _time_left(self) -> str:
        seconds = self._progress.tasks[self._task].time_remaining
        return "" if not seconds else f"  {timedelta(seconds=round(seconds))} left"

    def _numbers(self) -> str:
        latest = self._latest
        parts = [f"loss {latest['train/loss']:.4f} (smoothed {self._smoothed:.4f})"]
        if "eval/loss" in latest:
            parts.append(f"held-out {latest['eval/loss']:.4f}")
        if "train/learning_rate" in latest:
            parts.append(f"lr {latest['train/learning_rate']:.2e}")
        if "train/tokens_per_second" in latest:
            real, trained = latest["train/tokens_per_second"], latest["train/trained_tokens_per_second"]
            parts.append(f"{real:,.0f} tokens/s ({trained:,.0f} trained)")
        wait, step = latest.get("train/data_wait_seconds", 0.0), latest.get("train/step_seconds", 0.0)
        if wait > NOTABLE_WAIT * step:
            parts.append(f"waited {wait:.2f} of {step:.2f} s for data")
        return "  ".join(parts)
