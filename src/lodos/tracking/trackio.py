"""Trackio, in its folder on this machine."""

import contextlib
import io
from collections.abc import Mapping
from typing import Any

from lodos.tracking.config import TrackioConfig
from lodos.tracking.tracker import TrackedRun


class TrackioTracker:
    """Logs to a run of the same id in Trackio's folder; `trackio show` shows it.

    A resumed run goes on where its numbers end; those that it has from before the resumption stay as they are.
    """

    def __init__(self, config: TrackioConfig, run: TrackedRun):
        from trackio.run import Run
        from trackio.sqlite_storage import SQLiteStorage

        class LocalRun(Run):
            """`trackio.init` would go by environment variables that send numbers elsewhere, and ask the hub who the
            user is."""

            def _get_username(self) -> str | None:
                return None

        name = config.name or run.id
        SQLiteStorage.init_db(config.project)
        if run.first_step == 0:
            SQLiteStorage.delete_run(config.project, name, run_id=run.id)
        done = SQLiteStorage.get_max_step_for_run(config.project, name, run_id=run.id)
        self._next_step = 0 if done is None else done + 1
        self._settings: dict[str, Any] = dict(
            url=None, project=config.project, client=None, name=name, run_id=run.id, group=config.group
        )
        self._class = LocalRun
        self._run: Run | None = None

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        if step >= self._next_step:
            self._open({}).log(dict(metrics), step=step)

    def log_summary(self, facts: Mapping[str, Any]) -> None:
        self._open(dict(facts))

    def finish(self) -> None:
        if self._run is not None:
            with contextlib.redirect_stdout(io.StringIO()):  # "Uploading logs", which it does not do
                self._run.finish()

    def _open(self, facts: dict[str, Any]) -> Any:
        # Trackio takes the settings of a run when it begins, and later ones no more.
        if self._run is None:
            config = {**facts.pop("config", {}), **{f"summary/{name}": value for name, value in facts.items()}}
            self._run = self._class(**self._settings, config=config)
        return self._run
