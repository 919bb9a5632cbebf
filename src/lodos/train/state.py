"""What changes from step to step."""

import equinox as eqx
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from lodos.tree import partition


class TrainerState(eqx.Module):
    """The model, the optimizer's state for its trainable part, and where the run is."""

    step: Int[Array, ""]
    """Optimizer steps done."""
    model: PyTree
    opt_state: optax.OptState
    training_key: PRNGKeyArray
    """From which the randomness of step `s` follows: `fold_in(training_key, s)`."""
    is_trainable: PyTree
    """The filter_spec."""

    @property
    def trainable(self) -> PyTree:
        return partition(self.model, self.is_trainable)[0]

    @property
    def frozen(self) -> PyTree:
        return partition(self.model, self.is_trainable)[1]
