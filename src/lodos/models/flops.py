"""The floating-point operations that training on a token takes at least."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from lodos.models.decoder import LmHeadModel
from lodos.nn.embedding import Embedding
from lodos.nn.linear import Linear
from lodos.nn.norm import RMSNorm
from lodos.tree import partition


@dataclasses.dataclass(frozen=True)
class TrainingFlops:
    """Operations of a forward and a backward pass in products of matrices."""

    per_token: float
    """Of the layers, for each token."""
    per_trained_token: float
    """Of the output head, for each token whose prediction is trained; no other needs logits."""

    def of(self, tokens: float, trained_tokens: float) -> float:
        return self.per_token * tokens + self.per_trained_token * trained_tokens


def training_flops(model: LmHeadModel, is_trainable: PyTree) -> TrainingFlops:
    """Counted from the parameters, or their shapes: 4 for each of a frozen matrix and 6 for each of a trained one; 2
    for each below the lowest layer that is trained.

    A matrix is used once forward and once for the gradient of its input, with a multiplication and an addition each;
    a trained one once more for its own gradient. Attention's products of activations, norms and embeddings that are
    looked up do not count, and nothing is counted twice that is recomputed.
    """
    trained, frozen = partition(model, is_trainable)
    differentiated = 1 - _lowest_trained_layer(model, trained) / model.decoder.layers.num_layers
    frozen_head, trained_head = (
        _matrix_size(part.decoder.embed_tokens.weight if model.lm_head is None else part.lm_head)
        for part in (frozen, trained)
    )
    return TrainingFlops(
        per_token=(2 + 2 * differentiated) * _matrix_size(frozen.model)
        + 6 * differentiated * (_matrix_size(trained.model) - _table_size(trained)),
        per_trained_token=(4 if _has_arrays(trained.model) else 2) * frozen_head + 6 * trained_head,
    )


def _lowest_trained_layer(model: LmHeadModel, trained: LmHeadModel) -> int:
    if _has_arrays(trained.decoder.embed_tokens):
        return 0
    layers = model.decoder.layers
    return layers.first_layer if _has_arrays(trained.decoder.layers) else layers.num_layers


def _has_arrays(tree: PyTree) -> bool:
    return any(map(_is_array, jax.tree.leaves(tree)))


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array(leaf)


def _is_matrix(leaf: object) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)  # pyright: ignore[reportAttributeAccessIssue]


def _table_size(model: LmHeadModel) -> int:
    """How many numbers the tables beside the embedding hold of which each token takes its own."""
    leaves = jax.tree.leaves(model.decoder.embed_tokens, is_leaf=lambda node: isinstance(node, Embedding))
    return sum(leaf.size for leaf in leaves if _is_matrix(leaf) and model.config.vocab_size in leaf.shape)


def _matrix_size(tree: PyTree) -> int:
    """How many numbers the matrices of linear layers and of what is wrapped around them hold."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Linear | Embedding | RMSNorm))
    matrices = [node.weight if isinstance(node, Linear) else node for node in nodes]
    return sum(matrix.size for matrix in matrices if _is_matrix(matrix))
