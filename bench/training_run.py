"""`lodos train` as its users start it, watched through its log and stopped (SIGSTOP) between steps."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.measure import die_with_parent, peak_resident, wait_until
from lodos.tracking.jsonl import read_records

LONGEST_WAIT = 1800.0
"""Seconds for a record of the log."""

SECONDS_BETWEEN_PEAKS = 0.5


class TrainingRun:
    """A `lodos train` process; a context manager, which ends it.

    Its steps are done when the log says so. Stopping it then costs it the hundredth of a second by which it was seen
    late, next to steps of seconds. Looking costs it nothing: the log is read when it has grown.
    """

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None):
        """
        Args:
            arguments: flags of `lodos train`; its run's name and folder come on top.
            folder: for its run and what it prints; may exist.
            environment: variables on top of the present ones.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.run_folder = folder / "run"
        self._words = folder / "words.txt"
        own = ["--trainer.run_dir", str(folder), "--trainer.id", "run"]
        self.started = time.time()
        """As the log's times: seconds since 1970."""
        with self._words.open("w") as words:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lodos", "train", *arguments, *own],
                stdout=words,
                stderr=words,
                preexec_fn=die_with_parent,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})},
            )
        self.peak_bytes = 0
        self._peak_read = 0.0
        self._steps_seen = 0
        self._log_size = 0
        self._records: list[dict[str, Any]] = []

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def words(self) -> str:
        """What it has printed."""
        return self._words.read_text(errors="replace")

    def records(self) -> list[dict[str, Any]]:
        """Of its log; the first is written when all is loaded and the first step is about to begin."""
        log = self.run_folder / "log.jsonl"
        if log.exists() and (size := log.stat().st_size) != self._log_size:
            self._log_size, self._records = size, read_records(log)
        return self._records

    def steps(self) -> list[dict[str, Any]]:
        """The records of its steps."""
        return [record for record in self.records() if "train/loss" in record]

    def wait_until_loaded(self) -> None:
        """Lets it come as far as its first step and stops it there."""
        self._wait(lambda: self.records())
        self._signal(signal.SIGSTOP)

    def do_steps(self, count: int) -> tuple[int, float]:
        """Lets it do so many steps, or as many as are left; how many and in how many seconds.

        Raises:
            RuntimeError: when it fails.
        """
        self._signal(signal.SIGCONT)
        started = time.time()
        self._wait(lambda: len(self.steps()) >= self._steps_seen + count)
        self._signal(signal.SIGSTOP)
        # By the log's clock, since after the last step comes the saving.
        done = self.steps()[self._steps_seen :][:count]
        self._steps_seen += len(done)
        return len(done), done[-1]["time"] - started if done else 0.0

    def finish(self) -> Path:
        """Lets it come to its end; the folder of the adapter of its last step."""
        self._signal(signal.SIGCONT)
        self._wait(lambda: self.ended)
        return next((self.run_folder / "peft").glob("step-*"))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "TrainingRun":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _wait(self, condition: Any) -> None:
        def over() -> bool:
            is_over = bool(condition()) or self.ended
            if is_over or time.monotonic() - self._peak_read > SECONDS_BETWEEN_PEAKS:
                self.peak_bytes = max(self.peak_bytes, peak_resident(self._process.pid))
                self._peak_read = time.monotonic()
            return is_over

        wait_until(over, seconds=LONGEST_WAIT, what=lambda: f"{self.name}: {self.words[-1000:]}")
        if self.ended and self._process.returncode != 0:
            raise RuntimeError(f"{self.name}: exit status {self._process.returncode}\n{self.words[-3000:]}")

    def _signal(self, number: int) -> None:
        if not self.ended:
            os.kill(self._process.pid, number)
