"""The trackers with packages of their own: whether they can be used, and opening them.

What the user can mend is said before anything is loaded. Later, no tracker may stop a training.
"""

import importlib.util
from collections.abc import Sequence

from lodos.errors import UserError
from lodos.tracking.config import TensorboardConfig, TrackerConfig, TrackioConfig, WandbConfig
from lodos.tracking.tracker import Forgiving, TrackedRun, Tracker, warn_of

_PACKAGES: dict[type, tuple[str, str]] = {
    WandbConfig: ("wandb", "wandb"),
    TensorboardConfig: ("tensorboard", "tensorboardX"),
    TrackioConfig: ("trackio", "trackio"),
}
"""The extra that brings a tracker, and the module that it imports."""


def check_trackers(configs: Sequence[TrackerConfig]) -> None:
    """Refuses trackers that could not be opened.

    Raises:
        UserError: for packages that are not installed, and for an account that is not set up.
    """
    problems = [
        f"tracker: {extra}: its package {module} is not installed. Run: pip install 'lodos[{extra}]'"
        for config in configs
        if type(config) in _PACKAGES
        for extra, module in [_PACKAGES[type(config)]]
        if importlib.util.find_spec(module) is None
    ]
    if not problems:
        for config in configs:
            if isinstance(config, WandbConfig):
                from lodos.tracking.wandb import check_account

                problems += check_account(config)
    if problems:
        raise UserError("\n".join(problems))


def open_trackers(configs: Sequence[TrackerConfig], run: TrackedRun) -> list[Tracker]:
    """The trackers of a run; one that fails to open is said and left out."""
    trackers: list[Tracker] = []
    for config in configs:
        if type(config) not in _PACKAGES:
            continue  # log.jsonl, which every run has
        name = _PACKAGES[type(config)][0]
        try:
            trackers.append(Forgiving(name, _open(config, run)))
        except Exception as error:
            warn_of(name, error)
    return trackers


def _open(config: TrackerConfig, run: TrackedRun) -> Tracker:
    match config:
        case WandbConfig():
            from lodos.tracking.wandb import WandbTracker

            return WandbTracker(config, run)
        case TensorboardConfig():
            from lodos.tracking.tensorboard import TensorboardTracker

            return TensorboardTracker(config, run)
        case TrackioConfig():
            from lodos.tracking.trackio import TrackioTracker

            return TrackioTracker(config, run)
    raise AssertionError(config)
