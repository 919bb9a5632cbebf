"""Which trackers a run has, and their settings: the mappings under `trainer.wandb` and `trainer.tracker`.

    tracker: {type: wandb, project: alpaca, tags: [lora]}
    tracker: [{type: tensorboard}, {type: trackio, project: alpaca}]
    wandb: {project: alpaca}                                            short for a tracker of type wandb

It imports none of their packages.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lodos.config_parsing import parse_section
from lodos.errors import UserError


@dataclasses.dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases."""

    project: str = "lodos"
    entity: str | None = None
    """User or team; by default that of the account."""
    name: str | None = None
    """By default the run's."""
    group: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    id: str | None = None
    """By default made of the run's name, so that a resumed run goes on in the same W&B run."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """By default $WANDB_MODE, else online. What is written offline goes up with `wandb sync`."""
    save_code: bool = False
    """Let W&B keep the program, its git commit and its list of packages."""
    system_metrics: bool = False
    """Let W&B watch the machine, and keep its name and the command line."""


@dataclasses.dataclass(frozen=True)
class TensorboardConfig:
    """Event files for TensorBoard."""

    logdir: str | None = None
    """Folder of all runs, as <logdir>/<id>; by default <run_dir>/<id>/tensorboard."""
    flush_secs: int = 30
    """At most so old is what the files lack."""


@dataclasses.dataclass(frozen=True)
class TrackioConfig:
    """Trackio, in its folder on this machine ($TRACKIO_DIR), whatever else the environment says."""

    project: str = "lodos"
    name: str | None = None
    """By default the run's."""
    group: str | None = None


@dataclasses.dataclass(frozen=True)
class JsonlConfig:
    """The run's log.jsonl, which is always written."""


TrackerConfig = WandbConfig | TensorboardConfig | TrackioConfig | JsonlConfig

_TYPES: Mapping[str, type[TrackerConfig]] = {
    "wandb": WandbConfig,
    "tensorboard": TensorboardConfig,
    "trackio": TrackioConfig,
    "jsonl": JsonlConfig,
}

_INSTEAD: Mapping[str, str] = {
    "json_logger": "Leave it out: log.jsonl is always written.",
    "composite": "Give tracker: a list of mappings, one for each.",
    "wandb.resume": "Leave it out: the same trainer.id goes on in the same W&B run.",
    "wandb.save_xla_dumps": "Set XLA_FLAGS=--xla_dump_to=FOLDER in the environment.",
    "wandb.replicate_path": "Leave it out: everything that is logged is in the run's log.jsonl too.",
    "tensorboard.comment": "Leave it out: the folder has the name of the run, which is trainer.id.",
    "tensorboard.purge_step": "Leave it out: a resumed run hides what it does again.",
    "tensorboard.max_queue": "Give flush_secs.",
    "tensorboard.filename_suffix": "Leave it out: the folder has the name of the run, which is trainer.id.",
    "tensorboard.write_to_disk": "Leave the tracker out to write nothing.",
    "trackio.space_id": "Leave it out: numbers stay on this machine; `trackio sync` sends them.",
    "trackio.server_url": "Leave it out: numbers stay on this machine; `trackio sync` sends them.",
    "trackio.resume": "Leave it out: the same trainer.id goes on in the same run.",
}
"""Settings that other systems have, and what to write here."""

_NO_TRACKER = "noop"
"""Levanter's type for none."""

_ANYWAY: Mapping[str, tuple[Any, ...]] = {"wandb.resume": ("allow", "auto", True), "trackio.resume": ("allow",)}
"""Settings of other systems, and the values that ask for what is done here in any case."""


def parse_trackers(wandb: Mapping[str, Any] | None, tracker: Any) -> tuple[TrackerConfig, ...]:
    """The trackers that the values of `wandb` and `tracker` ask for.

    Raises:
        UserError: for unknown types and settings, each with what is meant or to be written instead, and for two
            trackers of a type.
    """
    entries: list[tuple[str, Any]] = [] if wandb is None else [("wandb", {"type": "wandb", **wandb})]
    if isinstance(tracker, Mapping):
        entries.append(("tracker", tracker))
    else:
        entries += [(f"tracker[{index}]", value) for index, value in enumerate(tracker or ())]
    found, problems = [], []
    for name, values in entries:
        if values.get("type") == _NO_TRACKER:
            continue
        try:
            found.append(_parse(name, values))
        except UserError as error:
            problems.append(str(error))
    types = [_type_of(config) for config in found]
    problems += [
        f"tracker: {kind} is given {types.count(kind)} times, counting wandb: as one. Give it once."
        for kind in dict.fromkeys(types)
        if types.count(kind) > 1
    ]
    if problems:
        raise UserError("\n".join(problems))
    return tuple(found)


def _parse(name: str, values: Mapping[str, Any]) -> TrackerConfig:
    settings = dict(values)
    kind = settings.pop("type", None)
    if kind is None:
        raise UserError(f"{name}.type: missing. Give one of {', '.join(_TYPES)}.")
    if kind not in _TYPES:
        raise UserError(f"{name}.type: {kind!r}: {_INSTEAD.get(kind) or _nearest(str(kind), tuple(_TYPES))}")
    settings = {key: value for key, value in settings.items() if value not in _ANYWAY.get(f"{kind}.{key}", ())}
    foreign = [f"{name}.{key}: {text}" for key in settings if (text := _INSTEAD.get(f"{kind}.{key}"))]
    if foreign:
        raise UserError("\n".join(foreign))
    return parse_section(_TYPES[kind], settings, name)


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"unknown. Did you mean {close[0]}?" if close else f"unknown. Known: {', '.join(known)}."


def _type_of(config: TrackerConfig) -> str:
    return next(kind for kind, cls in _TYPES.items() if isinstance(config, cls))
