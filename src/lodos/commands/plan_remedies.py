"""What to change of a config so that it fits: compiled and compared, not guessed."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp

from lodos.commands.compiled_plan import Plan, TracedStep, compile_step, trace_step
from lodos.commands.step_time import Speeds
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.nn.stacked import GradientCheckpointing

_SHORTEST = 128
_IN_16_BITS = "p=f32,c=bfloat16"


def cheapest_that_fits(
    config: TrainArgs, converter: HFCheckpointConverter, memory: int, speeds: Speeds, devices: int
) -> tuple[Plan | None, Sequence[Plan]]:
    """The candidate of the shortest step that fits, and those that were compiled before it and do not fit.

    What leaves the loss as it is comes first: rows at once, checkpointing, shards, layers split over devices. Only when
    none of that fits is the base held in 16 bits, and only then are rows cut shorter.

    Args:
        config: what it left open (`gradient_checkpointing: auto`, rows at once) is decided (`commands/fitting.py`).
    """

    def seconds(step: TracedStep) -> float:
        moved = sum(step.traffic.values())
        return speeds.seconds(step.flops, step.config.gradient_checkpointing, moved, devices)

    tried: list[Plan] = []
    for group in (_same_layout(config), _more_shards(config, devices), _in_16_bits(config), _shorter(config)):
        steps = [step for candidate in group if (step := _traced(candidate, converter)) is not None]
        for step in sorted(steps, key=seconds):
            if step.least > memory:
                continue
            plan = compile_step(step, read_text=False, evaluates=True)
            if plan.fits(memory):
                return plan, tried
            tried.append(plan)
    return None, tried


def most_rows_at_once(config: TrainArgs, converter: HFCheckpointConverter, memory: int) -> Plan | None:
    """The plan of the most rows that a device can compute at once; None if not even one fits."""
    choices = _divisors(config.trainer.train_batch_size // config.trainer.data_axis_size)
    best, low, high = None, 0, len(choices)
    while low < high:
        middle = (low + high) // 2
        step = trace_step(_with(config, rows=choices[middle]), converter)
        plan = None if step.least > memory else compile_step(step, read_text=False, evaluates=True)
        if plan is not None and plan.fits(memory):
            best, low = plan, middle + 1
        else:
            high = middle
    return best


def changed_settings(before: TrainArgs, after: TrainArgs) -> dict[str, Any]:
    """The settings of a remedy that differ, nested as in a config's YAML."""
    found: dict[str, Any] = {}
    for name in ("gradient_checkpointing", "max_tune_length", "seq_len"):
        if getattr(before, name) != getattr(after, name):
            found[name] = getattr(after, name)
    trainer = {
        name: getattr(after.trainer, name)
        for name in ("per_device_parallelism", "fsdp_axis", "model_axis_size", "mp")
        if getattr(before.trainer, name) != getattr(after.trainer, name)
    }
    return {**found, "trainer": trainer} if trainer else found


def _same_layout(config: TrainArgs) -> Iterator[TrainArgs]:
    """Fewer rows at once and more that is computed again, beside the config itself."""
    share = config.trainer.train_batch_size // config.trainer.data_axis_size
    rows_now = config.trainer.microbatch_size // config.trainer.data_axis_size
    kinds: list[GradientCheckpointing] = ["none", "dots", "full"]
    kinds = kinds[kinds.index(config.gradient_checkpointing) :]
    fewer = [rows for rows in _divisors(share) if rows <= rows_now]
    for checkpointing, rows in itertools.product(kinds, fewer):
        if (checkpointing, rows) != (config.gradient_checkpointing, rows_now):
            yield _with(config, checkpointing=checkpointing, rows=rows)


def _more_shards(config: TrainArgs, devices: int) -> Iterator[TrainArgs]:
    full = _with(config, checkpointing="full")
    if config.trainer.fsdp_axis is None and config.trainer.data_axis_size > 1:
        sharded = dataclasses.replace(full, trainer=dataclasses.replace(full.trainer, fsdp_axis="embed"))
        yield sharded
        yield from _same_layout(sharded)
    size = config.trainer.model_axis_size * 2
    while not config.trainer.mesh.axes and size <= min(devices, 8) and devices % size == 0:
        trainer = dataclasses.replace(full.trainer, model_axis_size=size, per_device_parallelism=1)
        yield dataclasses.replace(full, trainer=trainer)
        size *= 2


def _in_16_bits(config: TrainArgs) -> Iterator[TrainArgs]:
    if config.trainer.policy.compute_dtype == jnp.float32:
        halved = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, mp=_IN_16_BITS))
        yield halved
        yield from _same_layout(halved)


def _shorter(config: TrainArgs) -> Iterator[TrainArgs]:
    length = (config.positions if config.packing else config.longest_row) // 2
    while length >= _SHORTEST:
        shorter = _with(config, checkpointing="full", rows=1)
        changes: dict[str, Any] = {"max_tune_length": length}
        if config.seq_len is not None:
            changes["seq_len"] = length
        yield dataclasses.replace(shorter, **changes)
        length //= 2


def _with(
    config: TrainArgs, *, checkpointing: GradientCheckpointing | None = None, rows: int | None = None
) -> TrainArgs:
    trainer = config.trainer
    if rows is not None:
        trainer = dataclasses.replace(trainer, per_device_parallelism=rows)
    return dataclasses.replace(
        config, trainer=trainer, gradient_checkpointing=checkpointing or config.gradient_checkpointing
    )


def _traced(config: TrainArgs, converter: HFCheckpointConverter) -> TracedStep | None:
    """None where the devices or the model cannot be so divided."""
    try:
        return trace_step(config, converter)
    except UserError:
        return None


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]
