"""The devices as a mesh, what of a model each of its axes splits, and which rows of a batch a host brings.

    replica_dcn    replicas joined by a slow network (slices, nodes): each has all parameters, and shares the batch
    data           shares the batch; parameters are stored in shards over it (FSDP)
    model          splits each layer (tensor parallelism); it may span hosts
    sequence       splits the tokens of each row (`lodos.row_parts`)

Any other axis may be named by hand, and sent to by a mapping.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from lodos import hosts
from lodos.errors import UserError
from lodos.row_parts import SEQUENCE
from lodos.sharding import AxisMapping
from lodos.target import target

REPLICA, DATA, MODEL = "replica_dcn", "data", "model"


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The mesh by hand."""

    axes: dict[str, int] = dataclasses.field(default_factory=dict)
    """Devices along each axis of the mesh, the slowest network first, such as {replica_dcn: 2, data: -1}; -1 for all
    that are left. replica_dcn shares the batch between slices or nodes, each of which holds all parameters;
    sequence splits the tokens of each row."""
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Mesh axes over which a logical axis of the parameters is stored, one or a list: {embed: [data, model]}; null for
    none. What is not named here goes by fsdp_axis and tensor_parallel_axes."""
    compute: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The same during computation, where batch and tokens are logical axes too: {mlp: model}."""

    def __post_init__(self) -> None:
        problems = [
            f"mesh.axes: {name}: {size} must be at least 1, or -1 for the devices that are left."
            for name, size in self.axes.items()
            if size != -1 and size < 1
        ]
        if sum(size == -1 for size in self.axes.values()) > 1:
            problems.append("mesh.axes: only one axis can have the devices that are left (-1).")
        for setting, mapping in (("parameters", self.parameters), ("compute", self.compute)):
            for name, axes in mapping.items():
                if not all(isinstance(axis, str) for axis in axes_of(axes)):
                    problems.append(f"mesh.{setting}: {name}: {axes!r} must be a mesh axis, a list of them, or null.")
        if problems:
            raise UserError("\n".join(problems))


@dataclasses.dataclass(frozen=True)
class BatchShare:
    """The rows of each batch that a host brings: the `index`-th of `count` equal slices."""

    index: int
    count: int


WHOLE_BATCH = BatchShare(0, 1)


def axes_of(sent_to: Any) -> tuple[Any, ...]:
    """The mesh axes of an entry of a mapping."""
    return (sent_to,) if isinstance(sent_to, str) else tuple(sent_to or ())


def mesh_shape(config: MeshConfig, model_axis_size: int, devices: int) -> dict[str, int]:
    """The size of each mesh axis for so many devices.

    Raises:
        UserError: when they cannot be so arranged.
    """
    axes = dict(config.axes)
    if MODEL in axes and model_axis_size not in (1, axes[MODEL]):
        raise UserError(f"mesh.axes: model is {axes[MODEL]} and model_axis_size {model_axis_size}. Give one of them.")
    axes.setdefault(DATA, 1 if -1 in axes.values() else -1)
    axes.setdefault(MODEL, model_axis_size)
    fixed = math.prod(size for size in axes.values() if size != -1)
    asked = " x ".join(f"{name} {size}" for name, size in axes.items() if size not in (1, -1))
    if devices % fixed or (-1 not in axes.values() and fixed != devices):
        what = f"model_axis_size: {model_axis_size} does" if not config.axes else f"mesh.axes: {asked} do"
        raise UserError(
            f"{what} not divide the {devices} devices."
            if devices % fixed
            else (f"mesh.axes: {asked} are {fixed} devices, of {devices} that there are. Give one axis -1.")
        )
    return {name: devices // fixed if size == -1 else size for name, size in axes.items()}


def make_mesh(shape: Mapping[str, int]) -> Mesh:
    """All devices as a mesh; those of a replica are neighbours, of as few slices and hosts as can be.

    Raises:
        UserError: when a slice would belong to two replicas.
    """
    names, replicas = tuple(shape), shape.get(REPLICA, 1)
    types = (AxisType.Auto,) * len(names)
    devices = list(target().devices)
    if replicas == 1:
        return jax.make_mesh(tuple(shape.values()), names, types, devices=devices)
    inner = {name: size for name, size in shape.items() if name != REPLICA}
    by_place = sorted(devices, key=lambda device: (_slice(device) or 0, device.process_index, device.id))
    groups = np.array(by_place, dtype=object).reshape(replicas, -1)
    slices = [{_slice(device) for device in group} for group in groups]
    if any(a & b - {None} for i, a in enumerate(slices) for b in slices[:i]) and len(set().union(*slices)) > 1:
        raise UserError(f"mesh.axes: {REPLICA} {replicas}: a slice would be cut in two. Give the number of slices.")
    inner_types = (AxisType.Auto,) * len(inner)
    meshes = [jax.make_mesh(tuple(inner.values()), tuple(inner), inner_types, devices=list(group)) for group in groups]
    arranged = np.moveaxis(np.stack([mesh.devices for mesh in meshes]), 0, names.index(REPLICA))
    return Mesh(arranged, names, axis_types=types)


def batch_axes(shape: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes that share the batch."""
    return tuple(name for name in (REPLICA, DATA) if name in shape)


def mapping_problems(config: MeshConfig, shape: Mapping[str, int]) -> list[str]:
    """Mesh axes that the mappings name and that are not there."""
    return [
        f"mesh.{setting}: {name}: {axis!r} is no axis of the mesh. There are {', '.join(shape)}."
        for setting, mapping in (("parameters", config.parameters), ("compute", config.compute))
        for name, sent_to in mapping.items()
        for axis in axes_of(sent_to)
        if axis not in shape
    ] + [
        f"mesh.compute: {name}: {SEQUENCE} splits the tokens of rows and nothing else. Name another axis."
        for name, sent_to in config.compute.items()
        if SEQUENCE in axes_of(sent_to)
    ]


def overlaid(mapping: AxisMapping, by_hand: Mapping[str, Any]) -> AxisMapping:
    """A mapping with what was given by hand in place of its own."""
    given = {name: axes[0] if len(axes := axes_of(sent_to)) == 1 else axes for name, sent_to in by_hand.items()}
    return {name: sent_to for name, sent_to in {**mapping, **given}.items() if sent_to}


def batch_share(mesh: Mesh, axes: tuple[str, ...]) -> BatchShare:
    """The rows that this host's devices need: the smallest of equal slices of which every host needs but one.

    Where the axes that share the batch do not follow the hosts, as with a layer that is split over hosts, several hosts
    bring the same rows.
    """
    sizes = [mesh.shape[axis] for axis in axes]
    order = [mesh.axis_names.index(axis) for axis in axes]
    order += [place for place in range(mesh.devices.ndim) if place not in order]
    by_share = mesh.devices.transpose(order).reshape(math.prod(sizes), -1)
    needs: dict[int, set[int]] = {}
    for share, devices in enumerate(by_share):
        for device in devices:
            needs.setdefault(device.process_index, set()).add(share)
    for count in range(min(len(needs), len(by_share)), 0, -1):
        if len(by_share) % count:
            continue
        size = len(by_share) // count
        slices = {host: {share // size for share in shares} for host, shares in needs.items()}
        if all(len(found) == 1 for found in slices.values()):
            return BatchShare(next(iter(slices.get(hosts.index(), {0}))), count)
    raise AssertionError("one slice holds every row")


def _slice(device: Any) -> int | None:
    return getattr(device, "slice_index", None)
