"""Token embeddings with a low-rank update beside them.

    model.embed_tokens                        Embedding
    model.embed_tokens                        LoraEmbedding
    model.embed_tokens.base_layer             Embedding, frozen
    model.embed_tokens.lora_embedding_A       [r, vocab]    float32, trained
    model.embed_tokens.lora_embedding_B       [embed, r]    float32, trained

A has a column for each token, of which a token takes its own. So A starts at zero and B at random, unlike those of a
linear layer, and nothing is dropped: as in PEFT (`Embedding` in its `tuners/lora/layer.py`).
"""

from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lodos.lora.adapted import LoraLayer
from lodos.nn.embedding import Embedding


class LoraEmbedding(LoraLayer):
    """`y = E[token] + scale * B A[:, token]`."""

    factor_names: ClassVar[tuple[str, str]] = ("lora_embedding_A", "lora_embedding_B")
    names_in_files: ClassVar[tuple[str, str]] = ("lora_embedding_A", "lora_embedding_B")

    base_layer: Embedding
    lora_embedding_A: Float[Array, "r vocab"]
    lora_embedding_B: Float[Array, "embed r"]
    scale: float = eqx.field(static=True)

    @staticmethod
    def init(base_layer: Embedding, r: int, scale: float, *, key: PRNGKeyArray) -> "LoraEmbedding":
        """A zero, B normal with a standard deviation of 1."""
        vocab, embed = base_layer.weight.shape
        B = jax.random.normal(key, (embed, r), jnp.float32)
        return LoraEmbedding(
            base_layer, lora_embedding_A=jnp.zeros((r, vocab), jnp.float32), lora_embedding_B=B, scale=scale
        )

    @property
    def weight(self) -> Float[Array, "vocab embed"]:
        """The base layer's."""
        return self.base_layer.weight

    def __call__(self, tokens: Int[Array, " tokens"]) -> Float[Array, "tokens embed"]:
        embedded = self.base_layer(tokens)
        A, B = (factor.astype(jnp.float32) for factor in self.factors)
        # The sum is made in float32 and rounded once: it is small beside what the layers compute.
        update = self.scale * (jnp.take(A, tokens, axis=1).T @ B.T)
        return (embedded.astype(jnp.float32) + update).astype(embedded.dtype)

    def rank_of(self, index: int | None) -> int:
        return self.lora_embedding_A.shape[0]

    def delta_of(self, index: int | None, rows: slice = slice(None)) -> Float[np.ndarray, "vocab embed"]:
        A, B = self.file_tensors(index).values()
        return np.float32(self.scale) * (B @ A[:, rows]).T

    def merged(self) -> Embedding:
        weight, (A, B) = self.base_layer.weight, self.factors
        delta = self.scale * jnp.matmul(B.astype(jnp.float32), A.astype(jnp.float32)).T
        return Embedding((weight.astype(jnp.float32) + delta).astype(weight.dtype))

    def logical_axes(self) -> Mapping[str, tuple[str, ...]]:
        return {"lora_embedding_A": ("lora_r", "vocab"), "lora_embedding_B": ("embed", "lora_r")}
