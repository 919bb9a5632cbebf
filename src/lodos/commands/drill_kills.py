"""A run that is started, killed at a random moment, and started again.

SIGKILL goes to the process and to those that it has started, as when a machine is taken away.
"""

import contextlib
import dataclasses
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lodos.commands.drill_witness import read_trace
from lodos.errors import UserError

_POLL_SECONDS = 0.002
_SAVE_SECONDS = 0.2
"""A kill that is to hit a save comes so soon after the save was first seen."""
_SHOWN_LINES = 15
_UNFINISHED = (".partial", ".orbax-checkpoint-tmp")
"""How the folders are called in which something is being written."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast a run goes, by one that nobody disturbed."""

    starting: float
    """Seconds from its start until its first step was given a batch."""
    step: float
    """Seconds from step to step, the median."""


@dataclasses.dataclass(frozen=True)
class Kill:
    """One that hit."""

    step: int
    """The last step that had begun."""
    while_starting: bool
    """Before this process had begun a step."""
    while_saving: bool
    """Whether something was left unfinished on the disk."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill: once a step has begun, and something is being saved, if so, and so much later.

    Where no step is named, so much after the start of the process, or with its first step if that comes sooner.
    """

    step: int | None
    saving: bool
    seconds: float


def random_moment(chance: random.Random, pace: Pace, *, done: int, steps: int, left: int, interval: int) -> Moment:
    """One kill in six falls into the start of the process, a third on a step, half on a save.

    Args:
        done: the last step that has begun so far.
        left: kills that are still to come, this one included.
        interval: steps from checkpoint to checkpoint.
    """
    kind = chance.choice(("starting", "step", "step", "save", "save", "save"))
    if kind == "starting":
        return Moment(None, saving=False, seconds=chance.uniform(0, pace.starting))
    # With a save at the end the run would be over, and with it the drill.
    last = max(steps - interval - 1, 1)
    step = min(done + chance.randint(1, max(1, (last - done) // left)), steps - 1)
    if kind == "save" and step <= last:
        return Moment(step, saving=True, seconds=chance.uniform(0, _SAVE_SECONDS))
    return Moment(min(step, last), saving=False, seconds=chance.uniform(0, pace.step))


@dataclasses.dataclass(frozen=True)
class Run:
    """Of one name, however many processes it takes.

    Args:
        folder: the run's, where all that it saves is.
        config: its config file.
        trace: the file in which it notes what each step was given.
        log: the file for what its newest process says.
    """

    folder: Path
    config: Path
    trace: Path
    log: Path

    @property
    def begun(self) -> int:
        """The last step that has begun."""
        return max((seen.step for seen in read_trace(self.trace)), default=0)

    def undisturbed(self) -> Pace:
        """Lets it run to its end.

        Raises:
            UserError: when it fails.
        """
        began = time.time()
        self._process(lambda process: process.wait())
        at = [seen.at for seen in read_trace(self.trace)]
        between = [later - earlier for earlier, later in itertools.pairwise(at)]
        return Pace(at[0] - began if at else 0.0, statistics.median(between) if between else 0.0)

    def killed(self, moment: Moment) -> Kill | None:
        """Starts it and kills it at this moment; None where it had ended before.

        Raises:
            UserError: when it fails by itself.
        """
        lines = len(read_trace(self.trace))

        def kill(process: "subprocess.Popen[bytes]") -> None:
            lives = lambda: process.poll() is None  # noqa: E731
            until = time.monotonic() + moment.seconds
            while moment.step is None and self._newest_step(lines) == 0 and time.monotonic() < until and lives():
                time.sleep(_POLL_SECONDS)
            if moment.step is None:
                return
            while self._newest_step(lines) < moment.step and lives():
                time.sleep(_POLL_SECONDS)
            while moment.saving and not self._saves() and lives():
                time.sleep(_POLL_SECONDS)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment.seconds)

        if self._process(kill) == 0:
            return None
        return Kill(self.begun, self._newest_step(lines) == 0, self._saves())

    def _newest_step(self, lines: int) -> int:
        """The last step that this process has begun, by what is in the trace beyond so many lines."""
        seen = read_trace(self.trace)[lines:]
        return seen[-1].step if seen else 0

    def _saves(self) -> bool:
        """Whether something is being written, or was when the process was killed."""
        found = False
        for _, folders, _ in os.walk(self.folder):
            found = found or any(mark in name for name in folders for mark in _UNFINISHED)
        return found

    def _process(self, watch: "Callable[[subprocess.Popen[bytes]], object]") -> int:
        """Starts a process, and kills it when `watch(process)` returns; its exit code, 0 or -9."""
        command = [sys.executable, "-m", "lodos.commands.drill_witness", self.config, self.trace]
        with self.log.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        try:
            watch(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        if status not in (0, -signal.SIGKILL):
            said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
            raise UserError(
                f"{self.config}: a process of the run ended by itself with exit code {status}. It said:\n"
                + "\n".join(said)
            )
        return status
