"""Event files that TensorBoard reads, written by tensorboardX, which needs neither TensorFlow nor torch."""

import json
from collections.abc import Mapping
from typing import Any

from lodos.places.mirror import Mirror
from lodos.places.place import is_remote, place_of
from lodos.tracking.config import TensorboardConfig
from lodos.tracking.tracker import TrackedRun


class TensorboardTracker:
    """Writes to `<logdir>/<run id>`, by default `<run folder>/tensorboard`.

    Each start adds a file; TensorBoard hides what earlier ones have of the steps that are done again.
    """

    def __init__(self, config: TensorboardConfig, run: TrackedRun):
        from tensorboardX import SummaryWriter

        place = run.place / "tensorboard" if config.logdir is None else place_of(config.logdir) / run.id
        # On a store, event files are this machine's own until they are sent.
        folder = run.folder / "tensorboard" if is_remote(place) else place
        self._mirror = Mirror(folder, place) if is_remote(place) else None
        self._first_step = run.first_step
        self._writer = SummaryWriter(
            str(folder),
            purge_step=run.first_step + 1,
            flush_secs=config.flush_secs,
            # A file is named by the second, and must not replace that of a run stopped within it.
            filename_suffix=f".{run.first_step}",
        )

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, global_step=step)

    def log_summary(self, facts: Mapping[str, Any]) -> None:
        rest = dict(facts)
        for name, value in (("config", rest.pop("config", None)), ("summary", rest)):
            if value is not None:
                # Four spaces make it a block of code in Markdown, which is how TensorBoard shows text.
                lines = json.dumps(value, indent=2, ensure_ascii=False).splitlines()
                self._writer.add_text(name, "\n".join("    " + line for line in lines), self._first_step)

    def finish(self) -> None:
        self._writer.close()
        if self._mirror is not None:
            self._mirror.close()
