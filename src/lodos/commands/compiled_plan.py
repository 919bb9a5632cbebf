"""A config's train step and evaluation step, compiled from `config.json` alone for whatever is compiled for."""

import dataclasses
import functools
import time
from collections.abc import Mapping

import jax

from lodos.commands.loaders import blank_batch
from lodos.commands.lora_model import lora_structure, lora_trainer
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.models.flops import training_flops
from lodos.plan.footprint import Footprint, bytes_per_device, bytes_refused, temporaries_of
from lodos.plan.liveness import estimated_temporaries, least_temporaries
from lodos.plan.traffic import has_all_of, traffic_of_jaxpr, traffic_of_text
from lodos.target import target
from lodos.train.axes import check_axes
from lodos.train.placement import batch_shapes, state_shapes
from lodos.train.state import TrainerState
from lodos.train.trainer import Trainer

UNKNOWN_STEPS = 1000
"""Where nobody says how many steps there are; the schedule of the learning rate is compiled into the step."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step of a config takes. Bytes are those of one device."""

    config: TrainArgs
    tokens: int
    """Of a step, over all devices, filler included."""
    flops: float
    """Of a step, over all devices, if every token is trained; nothing that is recomputed counts."""
    training: Footprint
    refused: int | None
    """The bytes that the compiler says a device would need, where it refuses the program; `training` then has no
    temporaries."""
    evaluation: Footprint | None
    """None where the step was not compiled."""
    traffic: Mapping[str, int]
    """Bytes that come to a device in a step, by kind of collective."""
    traffic_is_compiled: bool
    """Whether they are those of the compiled program, or of the traced one."""
    compile_seconds: float

    @property
    def needed(self) -> int:
        """Bytes of the step."""
        return self.training.total if self.refused is None else self.refused

    def fits(self, memory: int | None) -> bool:
        """Whether a device of so many bytes can run it; where nobody knows how many, whether it was compiled."""
        needed = max(self.needed, 0 if self.evaluation is None else self.evaluation.total)
        return self.refused is None and (memory is None or needed <= memory)


@dataclasses.dataclass(frozen=True)
class TracedStep:
    """A step whose shapes are known and which is not compiled yet."""

    config: TrainArgs
    trainer: Trainer
    state: TrainerState
    """Shapes."""
    traced: jax.stages.Traced
    holds: Footprint
    """Without temporaries."""
    length: int
    """Positions of a row."""
    flops: float
    traffic: Mapping[str, int]
    """Of the traced program."""

    @property
    def tokens(self) -> int:
        return self.config.trainer.train_batch_size * self.length

    @functools.cached_property
    def estimated(self) -> int:
        """Bytes of a device as the program is written; compiled it mostly needs less."""
        return self.holds.total + estimated_temporaries(self.traced.jaxpr.jaxpr, target().device_count)

    @functools.cached_property
    def least(self) -> int:
        """Bytes below which no compiled program gets."""
        return self.holds.total + least_temporaries(self.traced.jaxpr.jaxpr, target().device_count)


def trace_step(config: TrainArgs, converter: HFCheckpointConverter, *, length: int | None = None) -> TracedStep:
    """The train step of a config for the devices that are compiled for, from shapes alone.

    Args:
        length: positions of a row; by default as many as there may be: packed rows have them, others are padded to the
            longest of their batch.

    Raises:
        UserError: when the devices cannot be arranged as the config asks, or layers or axes are not there.
    """
    if config.trainer.num_train_steps is None:
        trainer = dataclasses.replace(config.trainer, num_train_steps=UNKNOWN_STEPS, num_epochs=None)
        config = dataclasses.replace(config, trainer=trainer)
    key = jax.random.key(0)
    shapes = lora_structure(config, converter)
    check_axes(config.trainer, shapes)
    trainer = lora_trainer(config, shapes)
    length = length or longest(config)
    with config.trainer.device_mesh:
        batch = batch_shapes(blank_batch(config, length), config.trainer)
        state = state_shapes(key, shapes, trainer.is_trainable, trainer.optimizer, config.trainer)
        traced = trainer.trace(state, batch)
    holds = dataclasses.replace(state_footprint(state), batch=bytes_per_device((batch, state.step, state.training_key)))
    tokens = config.trainer.train_batch_size * length
    flops = training_flops(shapes, trainer.is_trainable).of(tokens, tokens)
    return TracedStep(config, trainer, state, traced, holds, length, flops, traffic_of_jaxpr(traced.jaxpr.jaxpr))


def compile_step(step: TracedStep, *, read_text: bool = True, evaluates: bool = False) -> Plan:
    """Compiles it.

    Args:
        read_text: takes what is moved from the compiled program's text.
        evaluates: compiles the evaluation step as well.

    Raises:
        UserError: when the compiler refuses it for anything but a lack of memory.
    """
    started = time.perf_counter()
    training, refused, traffic, is_compiled = step.holds, None, step.traffic, False
    with step.config.trainer.device_mesh:
        try:
            compiled = step.traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            refused = bytes_refused(error, step.holds.arguments)
            if refused is None:
                raise UserError(f"The step does not compile: {str(error).splitlines()[0]}") from None
        else:
            training = dataclasses.replace(training, temporaries=temporaries_of(compiled))
            found = traffic_of_text(compiled.as_text() or "") if read_text else None
            if found is not None and not has_all_of(found, step.traffic, target().device_count):
                found = None  # XLA has written a collective in a form that is not read here
            is_compiled, traffic = found is not None, step.traffic if found is None else found
        seconds = time.perf_counter() - started
    plan = Plan(
        config=step.config,
        tokens=step.tokens,
        flops=step.flops,
        training=training,
        refused=refused,
        evaluation=None,
        traffic={kind: size for kind, size in traffic.items() if size},
        traffic_is_compiled=is_compiled,
        compile_seconds=seconds,
    )
    return with_evaluation(plan, step) if evaluates else plan


def with_evaluation(plan: Plan, step: TracedStep) -> Plan:
    """The plan with its evaluation step compiled; as it is where there is one or where the train step was refused."""
    if plan.evaluation is not None or plan.refused is not None:
        return plan
    with step.config.trainer.device_mesh:
        return dataclasses.replace(plan, evaluation=_evaluation(step))


def longest(config: TrainArgs) -> int:
    """Positions of the longest row that may come."""
    return config.positions if config.packing else config.longest_row


def state_footprint(state: TrainerState) -> Footprint:
    """What a state holds of each device, from its arrays or their shapes."""
    return Footprint(
        base=bytes_per_device(state.frozen),
        adapter=bytes_per_device(state.trainable),
        optimizer=bytes_per_device(state.opt_state),
        batch=0,
        temporaries=0,
    )


def _evaluation(step: TracedStep) -> Footprint:
    config, trainer = step.config, step.trainer
    rows = config.trainer.eval_batch_size // config.trainer.batch_share.count
    batch = batch_shapes(blank_batch(config, step.length, rows=rows), config.trainer)
    compiled = trainer.trace_evaluation(step.state.model, batch).lower().compile()
    return dataclasses.replace(step.holds, batch=bytes_per_device(batch), temporaries=temporaries_of(compiled))
