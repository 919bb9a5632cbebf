"""The filter_spec that trains the adapters and nothing else."""

import equinox as eqx
import jax
from jaxtyping import PyTree

from lodos.lora.adapted import LoraLayer
from lodos.lora.transform import is_lora


def lora_trainable_params_filter(model: PyTree) -> PyTree:
    """A tree of booleans of the model's shape: True at both factors of every adapted layer, False elsewhere."""

    def mark(node: object) -> PyTree:
        if not isinstance(node, LoraLayer):
            return False
        frozen = jax.tree.map(lambda _: False, node)
        return eqx.tree_at(lambda layer: layer.factors, frozen, (True, True))

    return jax.tree.map(mark, model, is_leaf=is_lora)
