"""What several hosts do at the same step, whoever it was that had a reason to.

With every step, and every batch of an evaluation, each host sends two numbers: the signal that asked it to stop, and
whether it wants a checkpoint: by the first host's clock, or by SIGUSR1. The compiled step takes the largest of each,
which all hosts read among the step's numbers: so they learn it at the same step, and nobody waits for it. One host
alone sends nothing, and compiles nothing for it.
"""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from lodos import hosts


@dataclasses.dataclass
class Agreement:
    """What the hosts have agreed on so far."""

    signum: int = 0
    """The signal for which they stop; 0 while there is none."""
    saves: bool = False
    """That it is time for a checkpoint."""

    def heard(self, wishes: Int[np.ndarray, "2"]) -> None:
        """Takes note of what came back with a step."""
        self.heard_between_steps(wishes)
        self.saves = bool(wishes[1])

    def heard_between_steps(self, wishes: Int[np.ndarray, "2"]) -> None:
        """The same of what came back with a batch of an evaluation, where nothing is saved."""
        self.signum = self.signum or int(wishes[0])


def wish_shapes(mesh: Mesh) -> jax.ShapeDtypeStruct | None:
    """What `wishes` makes, as a shape; None for one host alone."""
    if hosts.count() == 1:
        return None
    layout = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.ShapeDtypeStruct((mesh.devices.size, 2), np.int32, sharding=layout)


def wishes(mesh: Mesh, *, signum: int, saves: bool) -> Int[Array, "devices 2"] | None:
    """What this host sends, on its devices."""
    shape = wish_shapes(mesh)
    if shape is None:
        return None
    own = np.array([[signum, saves]], np.int32)
    return jax.make_array_from_callback(shape.shape, shape.sharding, lambda _: own)
