"""How much two models differ in what they say of the same tokens."""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lodos.models.decoder import LmHeadModel


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Over all tokens of some prompts."""

    tokens: int
    largest: float
    """Largest difference of two logits."""
    top_1: float
    """Share of tokens after which both find the same token likeliest, of 1."""
    kl: float
    """Mean Kullback-Leibler divergence of the second from the first, in nats a token."""

    def describe(self) -> str:
        return (
            f"largest difference of logits {self.largest:.3g}, the same likeliest token {self.top_1:.1%} of "
            f"{self.tokens:,} times, KL {self.kl:.2e} nats a token"
        )

    @property
    def answers_alike(self) -> bool:
        """Whether both would give the same answers, as far as these tokens tell."""
        return self.top_1 == 1.0


def logits_of(model: LmHeadModel, prompts: Iterable[Sequence[int]]) -> list[Float[np.ndarray, "seq vocab"]]:
    """The logits after each token of each prompt, float32."""

    @jax.jit
    def forward(tokens: Int[Array, "1 seq"]) -> Float[Array, "seq vocab"]:
        return model(tokens)[0].astype(jnp.float32)

    return [np.asarray(forward(jnp.asarray([ids], jnp.int32))) for ids in prompts]


def divergence(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Divergence:
    """Of two models' logits for the same prompts."""
    a, b = np.concatenate(first).astype(np.float64), np.concatenate(second).astype(np.float64)
    log_p, log_q = _log_softmax(a), _log_softmax(b)
    return Divergence(
        tokens=len(a),
        largest=float(np.abs(a - b).max()),
        top_1=float((a.argmax(-1) == b.argmax(-1)).mean()),
        kl=float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean()),
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
