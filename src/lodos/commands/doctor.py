"""`lodos doctor`: whether a config trains the same on one device as on the mesh it asks for.

A few steps of the user's own config, from the same start and on the same batches, are taken on one device, on the mesh
and on the mesh with its devices in another order. Meshes change speed and memory, never the value: losses, gradient
norms and what is trained have to agree to rounding. Nothing is saved.
"""

import dataclasses
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from rich.console import Console
from rich.table import Table

from lodos.commands.loaders import make_loaders
from lodos.commands.lora_model import load_lora_model, lora_structure, lora_trainer
from lodos.config import TrainArgs
from lodos.config_parsing import parse_config
from lodos.data.text.chat import read_template
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.target import Target, compiling_for, target
from lodos.train.axes import check_axes
from lodos.train.failures import explained_failures
from lodos.train.mesh import MeshConfig
from lodos.tree import named_leaves

DESCRIPTION = """\
Take a few steps of a config on one device, on the mesh that it asks for, and on the mesh with its devices in another
order, and compare losses, gradient norms and what was trained. They differ by rounding alone; by more, something is
wrong with the devices or with lodos, and the exit status is 1. Nothing is saved.
Example: lodos doctor my.yaml --steps 3"""

TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}
"""The largest relative difference by the dtype of computation that rounding alone makes."""


@dataclasses.dataclass(kw_only=True)
class DoctorArgs(TrainArgs):
    """The config of a training, and how many steps of it are taken."""

    steps: int = 3
    """Optimizer steps on each arrangement of devices."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise UserError(f"steps: {self.steps} must be at least 1.")


@dataclasses.dataclass(frozen=True)
class Course:
    """What a few steps gave on one arrangement of devices."""

    name: str
    losses: Sequence[float]
    """Of each step."""
    grad_norms: Sequence[float]
    trained: Mapping[str, np.ndarray]
    """What is trained, by name, after the last step."""

    def difference(self, other: "Course", step: int) -> float:
        """The larger of the relative differences of loss and gradient norm at a step, counted from 0."""
        return max(
            _relative(self.losses[step], other.losses[step]), _relative(self.grad_norms[step], other.grad_norms[step])
        )

    def furthest(self, other: "Course") -> tuple[str, float]:
        """The trained parameter that differs most, by the norm of the difference over its own norm."""
        found = {
            name: float(np.linalg.norm(value - other.trained[name]) / max(np.linalg.norm(value), 1e-30))
            for name, value in self.trained.items()
        }
        name = max(found, key=lambda name: found[name] if np.isfinite(found[name]) else float("inf"))
        return name, found[name]


def main(argv: list[str]) -> int:
    """Compares; 1 if the arrangements part by more than rounding."""
    config = parse_config(DoctorArgs, argv, prog="lodos doctor", description=DESCRIPTION)
    with explained_failures():
        courses = take_courses(config)
    return 0 if report(courses, TOLERANCES[config.trainer.policy.compute_dtype.name]) else 1


def take_courses(config: DoctorArgs) -> list[Course]:
    """The same steps on one device, on the mesh, and on the mesh in another order.

    Raises:
        UserError: when there is one device alone, or what is wrong with the config.
    """
    devices = list(target().devices)
    if len(devices) == 1:
        raise UserError(
            "There is one device, so there is no mesh to compare it with. To try a mesh on one CPU, set "
            "XLA_FLAGS=--xla_force_host_platform_device_count=8."
        )
    with config.trainer.device_mesh:
        pass
    converter = HFCheckpointConverter.from_hf(
        config.model_name_or_path, chat_template=read_template(config.chat_template)
    )
    converter.check_weights()
    check_axes(config.trainer, lora_structure(config, converter))
    if config.streaming and config.trainer.num_train_steps is None:  # of which nothing here asks how many there are
        config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, num_train_steps=config.steps))
    loaders = make_loaders(config, converter)
    batches = list(itertools.islice(iter(loaders.training), config.steps))
    shuffled = random.Random(0).sample(devices, len(devices))
    arrangements = {
        "one device": devices[:1],
        f"mesh of {len(devices)}": devices,
        "in another order": shuffled if shuffled != devices else devices[::-1],
    }
    return [_course(name, Target(chosen), config, converter, batches) for name, chosen in arrangements.items()]


def report(courses: Sequence[Course], tolerance: float, console: Console | None = None) -> bool:
    """Shows the courses side by side, and says whether they agree within `tolerance`."""
    console = console or Console(highlight=False)
    first, *others = courses
    table = Table("step", *(f"{course.name}\nloss  |gradient|" for course in courses), "largest\ndifference")
    parting: dict[str, int] = {}
    for step in range(len(first.losses)):
        differences = {course.name: first.difference(course, step) for course in others}
        for name, difference in differences.items():
            if not difference <= tolerance:
                parting.setdefault(name, step + 1)
        cells = (f"{course.losses[step]:.6f}  {course.grad_norms[step]:.6f}" for course in courses)
        table.add_row(str(step + 1), *cells, f"{max(differences.values()):.1e}")
    console.print(table)
    for course in others:
        name, difference = first.furthest(course)
        console.print(f"{course.name}: of what is trained {name} differs most, by {difference:.1e}.")
    for name, step in parting.items():
        console.print(f"{name}: parts from one device at step {step}, by more than {tolerance:.0e}.", style="red")
    if not parting:
        console.print(f"They agree to {tolerance:.0e}.")
    return not parting


def _course(
    name: str, devices: Target, config: DoctorArgs, converter: HFCheckpointConverter, batches: Sequence[Any]
) -> Course:
    lora_key, training_key = jax.random.split(jax.random.key(config.trainer.seed))
    settings: dict[str, Any] = dict(
        num_train_steps=config.trainer.num_train_steps or config.steps, num_epochs=None, load_checkpoint=False
    )
    if devices.device_count == 1:
        # As many rows at once as a device of the mesh has, so that it has the memory for them.
        rows = config.trainer.microbatch_size // config.trainer.data_axis_size
        settings.update(model_axis_size=1, per_device_parallelism=rows, mesh=MeshConfig())
    with compiling_for(devices):
        config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, **settings))
    with compiling_for(devices), config.trainer.device_mesh:
        trainer = lora_trainer(config, lora_structure(config, converter))
        state = trainer.initial_state(training_key, model=load_lora_model(config, converter, key=lora_key))
        losses, grad_norms = [], []
        for batch in batches:
            state, metrics = trainer.train_step(state, batch)
            losses.append(float(metrics.loss))
            grad_norms.append(float(metrics.grad_norm))
        return Course(name, losses, grad_norms, _on_host(state.trainable))


def _on_host(tree: PyTree) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}


def _relative(one: float, other: float) -> float:
    return abs(one - other) / max(abs(one), 1e-30)
