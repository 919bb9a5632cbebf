"""Weights & Biases, with what it collects by itself switched off unless the settings ask for it."""

import os
import re
from collections.abc import Mapping
from typing import Any

from lodos.tracking.config import WandbConfig
from lodos.tracking.tracker import TrackedRun


class WandbTracker:
    """Logs to a W&B run whose files are in `<run folder>/wandb`.

    A resumed run goes on in the W&B run of the same id. Steps that were logged before it was killed are not logged
    again, since W&B takes none but growing ones.
    """

    def __init__(self, config: WandbConfig, run: TrackedRun):
        wandb = _wandb()
        # The server knows what there is of a run; offline nobody does, and `wandb sync` puts the parts together.
        resume = "allow" if run.first_step and _mode(config) == "online" else None
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=config.name or run.id,
            group=config.group,
            tags=config.tags,
            notes=config.notes,
            id=config.id or re.sub(r"[^\w.-]", "-", run.id),
            mode=config.mode,
            dir=str(run.folder),
            resume=resume,
            save_code=config.save_code,
            settings=wandb.Settings(
                console="off",
                disable_code=not config.save_code,
                disable_git=not config.save_code,
                x_save_requirements=config.save_code,
                x_disable_meta=not config.system_metrics,
                x_disable_machine_info=not config.system_metrics,
                x_disable_stats=not config.system_metrics,
            ),
        )
        logged_step = run.logged_step if run.first_step else 0
        self._next_step = max(self._run.step, logged_step + 1)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        if step >= self._next_step:
            self._run.log(dict(metrics), step=step)

    def log_summary(self, facts: Mapping[str, Any]) -> None:
        rest = dict(facts)
        self._run.config.update(rest.pop("config", {}), allow_val_change=True)
        self._run.summary.update(rest)

    def finish(self) -> None:
        self._run.finish()


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
