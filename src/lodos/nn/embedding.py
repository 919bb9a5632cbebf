"""Token embeddings, which also serve as the output head where the two are tied."""

from collections.abc import Mapping
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Embedding(eqx.Module):
    """A row for each token. There may be more rows than the tokenizer has tokens; they are kept as they are."""

    weight: Float[Array, "vocab embed"]

    @staticmethod
    def init(
        vocab_size: int, hidden_size: int, *, std: float = 0.02, dtype: Any = jnp.float32, key: PRNGKeyArray
    ) -> "Embedding":
        return Embedding(std * jax.random.normal(key, (vocab_size, hidden_size), dtype))

    def __call__(self, tokens: Int[Array, " tokens"]) -> Float[Array, "tokens embed"]:
        return self.weight[tokens]

    def logical_axes(self) -> Mapping[str, tuple[str, ...]]:
        return {"weight": ("vocab", "embed")}


class EmbeddingLike(Protocol):
    """An embedding, or what is wrapped around one."""

    @property
    def weight(self) -> Float[Array, "vocab embed"]: ...

    def __call__(self, tokens: Int[Array, " tokens"]) -> Float[Array, "tokens embed"]: ...


class TiedHead(eqx.Module):
    """An output head that is the embedding itself."""

    embedding: Embedding

    def __call__(
        self, x: Float[Array, "tokens embed"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "tokens vocab"]:
        return x @ self.embedding.weight.T
