"""What `lodos train` says of memory before it loads weights."""

import dataclasses
import logging

from jaxtyping import PRNGKeyArray

from lodos.commands.compiled_plan import state_footprint
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.models.decoder import LmHeadModel
from lodos.plan.footprint import Footprint, temporaries_of
from lodos.plan.liveness import estimated_temporaries, least_temporaries
from lodos.plan.sizes import size
from lodos.target import target
from lodos.train.memory import memory_of_device
from lodos.train.placement import state_shapes
from lodos.train.trainer import Trainer

logger = logging.getLogger(__name__)


def check_step_fits(config: TrainArgs, trainer: Trainer, shapes: LmHeadModel, key: PRNGKeyArray) -> None:
    """Says what the step holds of each device, in the numbers of `lodos plan`: as compiled if it is compiled by now,
    otherwise as the traced program is written.

    Raises:
        UserError: when it cannot fit: what is there whatever is compiled is more than a device has, or what is compiled
            for a device that has no other memory.
    """
    state = state_shapes(key, shapes, trainer.is_trainable, trainer.optimizer, config.trainer)
    holds, memory = state_footprint(state), memory_of_device()
    of_memory = "" if memory is None else f" of {size(memory)}"
    traced, compiled = trainer.traced_ahead, trainer.compiled_ahead
    if traced is None:  # there is no step to do
        logger.info("Each device holds %s%s: %s.", size(holds.total), of_memory, _parts(holds))
        return
    jaxpr, devices = traced.jaxpr.jaxpr, target().device_count
    least = dataclasses.replace(holds, temporaries=least_temporaries(jaxpr, devices))
    if compiled is not None:
        needed, whence, about = dataclasses.replace(holds, temporaries=temporaries_of(compiled)), "as compiled", ""
    else:
        estimated = max(least.temporaries, estimated_temporaries(jaxpr, devices))
        needed, whence, about = dataclasses.replace(holds, temporaries=estimated), "as traced", "about "
    if memory is not None:
        _refuse(needed if compiled is not None and target().platform != "cpu" else least, memory)
    activations = f"activations and temporaries {about}{size(needed.temporaries)} {whence}"
    logger.info("Each device holds %s%s%s: %s, %s.", about, size(needed.total), of_memory, _parts(holds), activations)


def _refuse(holds: Footprint, memory: int) -> None:
    if holds.arguments > memory:
        raise UserError(
            f"The model does not fit: each device would hold {size(holds.arguments)} ({_parts(holds)}) and has "
            f"{size(memory)}. Take more devices to store it in shards on (trainer.fsdp_axis), or trainer.mp: "
            "p=f32,c=bfloat16, which halves the base; lodos plan says what would fit."
        )
    if holds.total > memory:
        raise UserError(
            f"The step does not fit: each device would hold at least {size(holds.total)} ({_parts(holds)}, activations "
            f"{size(holds.temporaries)}) and has {size(memory)}. Set gradient_checkpointing and "
            "trainer.per_device_parallelism to auto, or lower max_tune_length; lodos plan says what would fit."
        )


def _parts(holds: Footprint) -> str:
    return f"base {size(holds.base)}, adapter {size(holds.adapter)}, optimizer {size(holds.optimizer)}"
