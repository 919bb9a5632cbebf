"""The settings of a training run: how long, how large, on which devices, with what saved."""

import dataclasses
import functools
import math
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lodos import hosts
from lodos.errors import UserError
from lodos.files import cache_folder
from lodos.hosts import DistributedConfig
from lodos.places.place import Place, is_remote, place_of
from lodos.row_parts import SEQUENCE
from lodos.sharding import FUSED_AXES, AxisMapping, DeviceMesh
from lodos.target import target
from lodos.tracking.config import TrackerConfig, parse_trackers
from lodos.train.mesh import (
    DATA,
    MODEL,
    BatchShare,
    MeshConfig,
    axes_of,
    batch_axes,
    batch_share,
    make_mesh,
    mapping_problems,
    mesh_shape,
    overlaid,
)
from lodos.train.nonfinite import OnNonfinite
from lodos.train.precision import Policy
from lodos.train.save_schedule import schedule_problems

_LONGEST_NAME = 200
"""Bytes of a run's name: file systems allow 255, and what is being written needs some."""


@dataclasses.dataclass(frozen=True)
class CheckpointerConfig:
    """Checkpoints of the trainable state, from which a run resumes."""

    base_path: str | None = None
    """Folder of the checkpoints of all runs; by default each run's are in its run folder."""
    save_interval: int | str = 100
    """Steps between checkpoints, or a time such as 10m or 1h30m; one is always written at the end."""
    keep: int | list[dict[str, int | None]] = 2
    """How many of the newest to keep; or which to keep beside the newest, such as [{every: 1000}], where until: 5000
    ends an entry and the next one decides."""

    def __post_init__(self) -> None:
        if problems := schedule_problems(self.save_interval, self.keep):
            raise UserError("\n".join(problems))


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """A training run."""

    id: str | None = None
    """Name of the run. Giving the name of a run that stopped resumes it; by default a new one is made up."""
    run_dir: str = "runs"
    """Folder of all runs; each run owns the folder <run_dir>/<id>."""
    seed: int = 0
    """Decides the order of the data, the start of the adapter and dropout."""
    mp: str = "p=f32,c=f32"
    """Precision: p of trainable parameters, c of the frozen ones and of computation, such as p=f32,c=bfloat16; not
    float16, whose range is too small."""
    num_train_steps: int | None = None
    """Optimizer steps."""
    num_epochs: float | None = None
    """Passes over the data, instead of num_train_steps; 3 if neither is given."""
    train_batch_size: int = 32
    """Rows of a batch, over all devices."""
    per_device_parallelism: int | Literal["auto"] = "auto"
    """Rows a device computes at once; smaller than its share of the batch accumulates gradients. -1: all at once; auto
    too, or fewer where they do not fit the memory."""
    per_device_eval_parallelism: int = -1
    """The same for evaluation; -1: as in training."""
    on_nonfinite: OnNonfinite = "stop"
    """What to do when a loss or gradient is not finite: stop saves the state before the step, and its batch with the
    rows it is made of; skip leaves everything as it was, counts, and gives up when 11 of 100 steps were skipped."""
    steps_per_eval: int = 50
    """Steps between evaluations on the held-out rows; one is always done at the end."""
    load_checkpoint: bool | None = None
    """Resume from the run's newest checkpoint: true demands one, false ignores it, null takes it if it is there."""
    load_checkpoint_step: int | None = None
    """Resume from the checkpoint of this step instead; those of later steps go when the next one is written. For the
    command line: the run's config.yaml is without it."""
    checkpointer: CheckpointerConfig = CheckpointerConfig()
    model_axis_size: int = 1
    """Devices over which one layer is split (tensor parallelism); the rest share the batch."""
    tensor_parallel_axes: tuple[str, ...] = ("mlp", "heads", "kv_heads")
    """Logical axes that are split over those devices: mlp, heads, kv_heads, vocab. With a model_axis_size of 1 there is
    nothing to split over."""
    fsdp_axis: str | None = "embed"
    """Logical axis along which parameters are stored in shards over the batch's devices; null keeps them whole."""
    mesh: MeshConfig = MeshConfig()
    """The mesh by hand: its axes, and what of parameters and computation each of them splits."""
    distributed: DistributedConfig = DistributedConfig()
    """How several hosts find each other, where no cluster says it."""
    wandb: dict[str, Any] | None = None
    """Log to Weights & Biases: project, entity, name, group, tags, notes, id, mode (online, offline, disabled),
    save_code, system_metrics. Short for a tracker of type wandb."""
    tracker: list[dict[str, Any]] | dict[str, Any] | None = None
    """Where numbers go besides log.jsonl: a mapping, or a list of them, with type: wandb (its settings are above),
    tensorboard (logdir, flush_secs) or trackio (project, name, group)."""

    def __post_init__(self) -> None:
        Policy.parse(self.mp)
        problems = [
            f"{name}: {value} must be at least 1."
            for name, value in (
                ("train_batch_size", self.train_batch_size),
                ("steps_per_eval", self.steps_per_eval),
                ("model_axis_size", self.model_axis_size),
                ("num_train_steps", self.num_train_steps),
                ("load_checkpoint_step", self.load_checkpoint_step),
            )
            if value is not None and value < 1
        ]
        if not 0 <= self.seed < 2**32:
            problems.append(f"seed: {self.seed} must be at least 0 and below 2**32.")
        if self.num_epochs is not None and self.num_epochs <= 0:
            problems.append(f"num_epochs: {self.num_epochs} must be above 0.")
        if self.num_epochs is not None and self.num_train_steps is not None:
            problems.append("num_epochs and num_train_steps are both given. Give one of them.")
        problems += [
            f"{name}: {value} must be at least 1, or -1 for all at once."
            for name, value in (
                ("per_device_parallelism", self.per_device_parallelism),
                ("per_device_eval_parallelism", self.per_device_eval_parallelism),
            )
            if isinstance(value, int) and value != -1 and value < 1
        ]
        if self.load_checkpoint is False and self.load_checkpoint_step is not None:
            problems.append("load_checkpoint: false and load_checkpoint_step are both given. Give one of them.")
        for setting, name in (("id", self.id), ("$RUN_ID", os.environ.get("RUN_ID") if self.id is None else None)):
            if name is not None and ((not name and setting == "id") or "/" in name or name.startswith(".")):
                problems.append(f"{setting}: {name!r} must be a plain folder name.")
            elif name is not None and (len(name.encode(errors="replace")) > _LONGEST_NAME or not name.isprintable()):
                problems.append(
                    f"{setting}: {name[:40]!r}... must be the name of a folder: at most {_LONGEST_NAME} bytes, without "
                    "line breaks and the like."
                )
        try:
            parse_trackers(self.wandb, self.tracker)
        except UserError as error:
            problems.append(str(error))
        if problems:
            raise UserError("\n".join(problems))

    @functools.cached_property
    def run_id(self) -> str:
        """The run's name: `id`, or $RUN_ID, or one made up from the time, by the first of several hosts."""
        given = self.id or os.environ.get("RUN_ID")
        decided = hosts.from_first("the run's name", lambda: given or _made_up_id())
        return given or decided

    @property
    def trackers(self) -> tuple[TrackerConfig, ...]:
        """Where numbers go, as `wandb` and `tracker` say."""
        return parse_trackers(self.wandb, self.tracker)

    @property
    def steps(self) -> int:
        """Optimizer steps.

        Raises:
            UserError: when they are not decided.
        """
        if self.num_train_steps is None:
            raise UserError("num_train_steps: not given. Give trainer.num_train_steps.")
        return self.num_train_steps

    @property
    def run_folder(self) -> Place:
        return place_of(self.run_dir) / self.run_id

    @property
    def local_run_folder(self) -> Path:
        """The run's folder, or where it is on a store, one of this machine for what can only be written here."""
        folder = self.run_folder
        if is_remote(folder):
            folder = cache_folder() / "runs" / self.run_id
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def checkpoint_folder(self) -> Place:
        return self.save_folder(self.checkpointer.base_path, "train_state")

    def save_folder(self, base: str | None, default: str) -> Place:
        """Where what the run saves goes: `<base>/<id>`, or `<run_dir>/<id>/<default>` where no base is given."""
        return self.run_folder / default if base is None else place_of(base) / self.run_id

    @property
    def policy(self) -> Policy:
        return Policy.parse(self.mp)

    @functools.cached_property
    def mesh_shape(self) -> dict[str, int]:
        """The axes of the mesh: `data` and `model`, and what `mesh.axes` names.

        Raises:
            UserError: when the devices cannot be so arranged.
        """
        return mesh_shape(self.mesh, self.model_axis_size, target().device_count)

    @functools.cached_property
    def device_mesh(self) -> DeviceMesh:
        """All devices as a mesh.

        Raises:
            UserError: when the devices or the batch cannot be so divided, or a mapping names no axis of the mesh.
        """
        if problems := mapping_problems(self.mesh, self.mesh_shape):
            raise UserError("\n".join(problems))
        self._check_batch(self.data_axis_size)
        return DeviceMesh(make_mesh(self.mesh_shape))

    @property
    def data_axis_size(self) -> int:
        """Over how many devices the batch is shared out."""
        return math.prod(self.mesh_shape[axis] for axis in self._batch_axes)

    @functools.cached_property
    def batch_share(self) -> BatchShare:
        """The rows of each batch that this host brings."""
        return batch_share(self.device_mesh.mesh, self._batch_axes)

    @property
    def _batch_axes(self) -> tuple[str, ...]:
        by_hand = self.mesh.compute.get("batch")
        return batch_axes(self.mesh_shape) if by_hand is None else axes_of(by_hand)

    @property
    def microbatch_size(self) -> int:
        """Rows computed at once, over all devices; all as long as nobody has decided."""
        if self.per_device_parallelism in ("auto", -1):
            return self.train_batch_size
        return self.per_device_parallelism * self.data_axis_size

    @property
    def eval_batch_size(self) -> int:
        if self.per_device_eval_parallelism == -1:
            return self.microbatch_size
        return self.per_device_eval_parallelism * self.data_axis_size

    @property
    def compute_axis_mapping(self) -> AxisMapping:
        """Logical axes to mesh axes during computation."""
        tensor_parallel = dict.fromkeys(self.tensor_parallel_axes, MODEL)
        activations: dict[str, Any] = dict.fromkeys(("batch", "tokens"), self._batch_axes)
        if self.mesh_shape.get(SEQUENCE, 1) > 1:
            activations["seq"] = SEQUENCE
        return overlaid({**activations, **tensor_parallel}, self.mesh.compute)

    @property
    def parameter_axis_mapping(self) -> AxisMapping:
        """Logical axes to mesh axes for stored parameters and optimizer state."""
        tensor_parallel = dict.fromkeys(self.tensor_parallel_axes, MODEL)
        tensor_parallel |= {fused: MODEL for fused, part in FUSED_AXES.items() if part in self.tensor_parallel_axes}
        fsdp = {} if self.fsdp_axis is None else {self.fsdp_axis: DATA}
        return overlaid({**fsdp, **tensor_parallel}, self.mesh.parameters)

    def check_lengths(self, lengths: Sequence[int]) -> None:
        """Looks at the lengths of rows.

        Raises:
            UserError: for rows that the mesh axis `sequence` does not divide, or cuts into single tokens.
        """
        parts = self.mesh_shape.get(SEQUENCE, 1)
        wrong = [str(length) for length in lengths if length % parts or length <= parts]
        if parts > 1 and wrong:
            raise UserError(
                f"trainer.mesh.axes: {SEQUENCE} {parts} does not cut rows of {', '.join(wrong)} positions into equal "
                f"parts of several tokens. Set packing: true, and seq_len: a larger multiple of {parts}."
            )

    def _check_batch(self, data_size: int) -> None:
        if self.train_batch_size % data_size:
            raise UserError(
                f"train_batch_size: {self.train_batch_size} is not divisible by the {data_size} devices that share "
                f"the batch. Try {-(-self.train_batch_size // data_size) * data_size}."
            )
        micro = self.microbatch_size
        if self.train_batch_size % micro:
            raise UserError(
                f"train_batch_size: {self.train_batch_size} is not divisible into microbatches of {micro} rows "
                f"(per_device_parallelism {self.per_device_parallelism} on {data_size} devices)."
            )


def _made_up_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
