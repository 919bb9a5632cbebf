"""What `lodos train` says of memory before it loads weights."""

import logging

from jaxtyping import PRNGKeyArray

from lodos.commands.compiled_plan import state_footprint
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.models.decoder import LmHeadModel
from lodos.plan.footprint import Footprint
from lodos.plan.sizes import size
from lodos.train.memory import memory_of_device
from lodos.train.placement import state_shapes
from lodos.train.trainer import Trainer

logger = logging.getLogger(__name__)


def check_state_fits(config: TrainArgs, trainer: Trainer, shapes: LmHeadModel, key: PRNGKeyArray) -> None:
    """Says what the parameters and the optimizer hold of each device.

    Raises:
        UserError: when that alone is more than a device has; whether the step fits is for the compiler to say.
    """
    state = state_shapes(key, shapes, trainer.is_trainable, trainer.optimizer, config.trainer)
    holds, memory = state_footprint(state), memory_of_device()
    parts = _parts(holds)
    if memory is not None and holds.arguments > memory:
        raise UserError(
            f"The model does not fit: each device would hold {size(holds.arguments)} ({parts}) and has {size(memory)}. "
            "Take more devices to store it in shards on (trainer.fsdp_axis), or trainer.mp: p=f32,c=bfloat16, which "
            "halves the base; lodos plan says what would fit."
        )
    of_memory = "" if memory is None else f" of {size(memory)}"
    logger.info("Each device holds %s%s before activations: %s.", size(holds.arguments), of_memory, parts)


def _parts(holds: Footprint) -> str:
    return f"base {size(holds.base)}, adapter {size(holds.adapter)}, optimizer {size(holds.optimizer)}"
