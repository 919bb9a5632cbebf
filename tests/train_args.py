"""Settings of runs in tests, and runs that are interrupted."""

import dataclasses
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lodos.commands.run_log import RunLog
from lodos.config import TrainArgs


def named(args: TrainArgs, run_id: str, **trainer: Any) -> TrainArgs:
    """The run under another name, with other settings of `trainer`."""
    return dataclasses.replace(args, trainer=dataclasses.replace(args.trainer, id=run_id, **trainer))


@contextmanager
def interrupted_after(step: int) -> Iterator[None]:
    """Within it, Ctrl-C comes when the numbers of this step are logged."""
    on_step = RunLog.on_step

    def interrupt(log: RunLog, report: Any) -> None:
        on_step(log, report)
        if report.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "on_step", interrupt)
        yield
