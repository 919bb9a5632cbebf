"""Whether the axes that a run's settings name are there, and are split as they ask."""

import difflib
import logging
import math
from collections.abc import Mapping
from typing import Any

from jaxtyping import PyTree

from lodos.errors import UserError
from lodos.sharding import axis_sizes
from lodos.train.config import TrainerConfig
from lodos.train.mesh import DATA, MODEL, axes_of

logger = logging.getLogger(__name__)

ACTIVATIONS = ("batch", "tokens")
"""Axes that no parameter has."""


def check_axes(config: TrainerConfig, model: PyTree) -> None:
    """Looks at `fsdp_axis`, `tensor_parallel_axes` and the mesh by hand, and warns of what stays whole though named.

    Args:
        model: to be trained; shapes will do. Its modules name the axes there are.

    Raises:
        UserError: for an axis that the model does not have, one that is named for both, a mapping by hand that leaves
            an axis whole, and a `model_axis_size` over whose devices nothing would be split.
    """
    sizes = axis_sizes(model)
    named = [] if config.fsdp_axis is None else [("fsdp_axis", config.fsdp_axis)]
    named += [("tensor_parallel_axes", name) for name in config.tensor_parallel_axes]
    named += [("mesh.parameters", name) for name in config.mesh.parameters]
    named += [("mesh.compute", name) for name in config.mesh.compute if name not in ACTIVATIONS]
    problems = [f"{setting}: {_unknown(name, sizes)}" for setting, name in named if name not in sizes]
    if config.fsdp_axis in config.tensor_parallel_axes:
        problems.append(
            f"fsdp_axis: {config.fsdp_axis} is among tensor_parallel_axes too, which would have it alone. Leave it out "
            "of one of them."
        )
    shape = config.mesh_shape
    devices = shape[MODEL]
    whole = [name for name in config.tensor_parallel_axes if name in sizes and not _is_split(sizes[name], devices)]
    if not problems and devices > 1 and len(whole) == len(config.tensor_parallel_axes):
        asked = ", ".join(f"{name} ({_shown(sizes[name])})" for name in whole) or "none"
        problems.append(
            f"model_axis_size: {devices} devices would all compute the same, as they divide none of "
            f"tensor_parallel_axes: {asked}. Give a number that divides one of them, or 1."
        )
    if math.prod(shape.values()) > 1:  # on one device nothing is split, whatever is asked
        problems += _whole_by_hand("parameters", config.mesh.parameters, sizes, shape)
        problems += _whole_by_hand("compute", config.mesh.compute, sizes, shape)
    if problems:
        raise UserError("\n".join(f"trainer.{problem}" for problem in problems))
    remarks = [
        f"tensor_parallel_axes: {name} ({_shown(sizes[name])}) is not divided by the {devices} devices of "
        "model_axis_size, so each computes it whole."
        for name in whole
        if devices > 1
    ]
    data = shape[DATA]
    if (fsdp := config.fsdp_axis) is not None and data > 1 and not _is_split(sizes[fsdp], data):
        remarks.append(
            f"fsdp_axis: {fsdp} ({_shown(sizes[fsdp])}) is not divided by {data} devices, so each stores all of it."
        )
    for remark in remarks:
        logger.warning("trainer.%s", remark)


def _whole_by_hand(
    setting: str, mapping: Mapping[str, Any], sizes: Mapping[str, set[int]], shape: Mapping[str, int]
) -> list[str]:
    """The logical axes that a mapping by hand names and leaves whole; one that sends an axis nowhere means it so."""
    problems = []
    for name, target in mapping.items():
        axes = axes_of(target)
        over = math.prod(shape[axis] for axis in axes)
        if not axes or name not in sizes or _is_split(sizes[name], over):
            continue
        of_mesh = ", ".join(f"{axis} {size}" for axis, size in shape.items())
        does = "store" if setting == "parameters" else "compute"
        problems.append(
            f"mesh.{setting}: {name} ({_shown(sizes[name])}) is not divided by the {over} devices of "
            f"{', '.join(axes)}, so each would {does} all of it. The mesh has {of_mesh}."
            if over > 1
            else f"mesh.{setting}: {name} is split over {', '.join(axes)}, which is one device. The mesh has {of_mesh}."
        )
    return problems


def _unknown(name: str, sizes: Mapping[str, set[int]]) -> str:
    near = difflib.get_close_matches(name, sizes, n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    return f"{name!r} is no axis of this model.{meant} There are {', '.join(sorted(sizes))}."


def _is_split(sizes: set[int], devices: int) -> bool:
    return devices > 1 and any(size % devices == 0 for size in sizes)


def _shown(sizes: set[int]) -> str:
    return ", ".join(map(str, sorted(sizes)))
