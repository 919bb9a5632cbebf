"""Settings of runs in tests."""

import dataclasses
from typing import Any

from lodos.config import TrainArgs


def named(args: TrainArgs, run_id: str, **trainer: Any) -> TrainArgs:
    """The run under another name, with other settings of `trainer`."""
    return dataclasses.replace(args, trainer=dataclasses.replace(args.trainer, id=run_id, **trainer))
