"""Weights & Biases, with what it collects by itself switched off unless the settings ask for it.

A server that refuses, stalls or fails holds a run up for ten seconds in all, at its start and at its end together; in
between a process of wandb's own sends, and tries again. What was not sent stays in the run's folder, and the command
that sends it is said at the end.
"""

import logging
import os
import re
import shlex
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lodos.tracking.config import WandbConfig
from lodos.tracking.tracker import TrackedRun

logger = logging.getLogger(__name__)

_LOOK_SECONDS, _OPEN_SECONDS, _FINISH_SECONDS = 2.0, 4.0, 4.0
"""For the server to answer at all, to open a run, and to take what is left at the end."""


class WandbTracker:
    """Logs to a W&B run whose files are in `<run folder>/wandb`.

    A resumed run goes on in the W&B run of the same id. Steps that were logged before it was killed are not logged
    again, since W&B takes none but growing ones.
    """

    def __init__(self, config: WandbConfig, run: TrackedRun):
        self._is_unsent = False
        if _mode(config) != "online":
            self._run = _open(config, run, config.mode)
        elif fault := _fault_of_server():
            self._run = self._kept(config, run, fault)
        else:
            try:
                self._run = _open(config, run, "online")
            except Exception as error:  # of whatever kind: wandb has many
                _wandb().teardown()  # which still holds the run's name
                self._run = self._kept(config, run, " ".join(str(error).split())[:200])
        logged_step = run.logged_step if run.first_step else 0
        self._next_step = max(self._run.step, logged_step + 1)

    def _kept(self, config: WandbConfig, run: TrackedRun, fault: str) -> Any:
        """A run whose numbers stay here for now."""
        self._is_unsent = True
        logger.warning("wandb: %s. Training goes on; its numbers are kept for wandb sync.", fault)
        return _open(config, run, "offline")

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        if step >= self._next_step:
            self._run.log(dict(metrics), step=step)

    def log_summary(self, facts: Mapping[str, Any]) -> None:
        rest = dict(facts)
        self._run.config.update(rest.pop("config", {}), allow_val_change=True)
        self._run.summary.update(rest)

    def finish(self) -> None:
        folder = Path(self._run.dir).parent
        try:
            self._run.finish()
        except Exception:  # of whatever kind: the time is up, or wandb's process is gone
            self._is_unsent = True
        if self._is_unsent:
            logger.warning("wandb: not everything was sent. By hand: wandb sync %s", shlex.quote(str(folder)))


def _open(config: WandbConfig, run: TrackedRun, mode: Any) -> Any:
    wandb = _wandb()
    bounds = {"init_timeout": _OPEN_SECONDS, "finish_timeout": _FINISH_SECONDS}
    return wandb.init(
        project=config.project,
        entity=config.entity,
        name=config.name or run.id,
        group=config.group,
        tags=config.tags,
        notes=config.notes,
        id=config.id or re.sub(r"[^\w.-]", "-", run.id),
        mode=mode,
        dir=str(run.folder),
        # The server knows what there is of a run; offline nobody does, and `wandb sync` puts the parts together.
        resume="allow" if run.first_step and mode == "online" else None,
        save_code=config.save_code,
        settings=wandb.Settings(
            console="off",
            disable_code=not config.save_code,
            disable_git=not config.save_code,
            x_save_requirements=config.save_code,
            x_disable_meta=not config.system_metrics,
            x_disable_machine_info=not config.system_metrics,
            x_disable_stats=not config.system_metrics,
            finish_timeout_raises=True,
            **{name: value for name, value in bounds.items() if f"WANDB_{name.upper()}" not in os.environ},
        ),
    )


def _fault_of_server() -> str | None:
    """Why no run can be opened at the server; None where it answers, whatever it says."""
    address = _wandb().setup().settings.base_url
    try:
        with urllib.request.urlopen(address, timeout=_LOOK_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"{address} answers {error.code}" if error.code >= 500 else None
    except (OSError, ValueError) as error:
        return f"{address} does not answer: {getattr(error, 'reason', None) or error}"


def check_account(config: WandbConfig) -> list[str]:
    """What keeps a run from being logged online, without asking the server."""
    if _mode(config) != "online":
        return []
    if os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or _wandb().api.api_key:
        return []
    return [
        "tracker: wandb: there is no API key on this machine. Run `wandb login`, set WANDB_API_KEY, or give mode: "
        "offline and upload with `wandb sync` later."
    ]


def _mode(config: WandbConfig) -> str:
    return config.mode or os.environ.get("WANDB_MODE") or "online"


def _wandb() -> Any:
    # Read when it is imported. What the user has set stays.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb
