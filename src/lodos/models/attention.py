"""Self-attention, named as in Hugging Face's models, with q, k and v from weights of their own or from one.

Linear layers see `[tokens, features]`; attention alone sees `[batch, seq, heads, head_size]`. A layer's linear
parts may be `Linear` or whatever is like one; those that read one input are called together (`products`).
"""

import abc
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lodos.models.context import Context
from lodos.nn import kv_cache
from lodos.nn.attention.attention import Window
from lodos.nn.dropout import split_keys
from lodos.nn.kv_cache import LayerCache
from lodos.nn.linear import Linear, LinearLike
from lodos.nn.norm import Norm, NormConfig
from lodos.nn.products import fused_products, product, products
from lodos.nn.rotary import RotaryConfig


@dataclasses.dataclass(frozen=True)
class QueryGrowth:
    """Turned queries are multiplied by `1 + beta * log(1 + floor(position / length))`: Llama 4's temperature."""

    beta: float
    length: int

    def __call__(self, positions: Int[Array, "batch seq"]) -> Float[Array, "batch seq"]:
        return 1 + self.beta * jnp.log1p(jnp.floor(positions.astype(jnp.float32) / self.length))


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """What tells one attention from another."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotary: RotaryConfig | None
    """None for a layer without positions (NoPE)."""
    kind: "type[Attention]"
    """Its class: which weights make q, k and v."""
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: NormConfig | None = None
    """On q and k."""
    qk_norm_over: str = "head_size"
    """What that norm is of: each head (`head_size`), or all of them (`heads`)."""
    qk_norm_after_rotary: bool = False
    """Of heads, once they are turned; not before."""
    query_growth: QueryGrowth | None = None
    scale: float | None = None
    """Of the scores; by default `1 / sqrt(head_dim)`."""
    soft_cap: float | None = None
    """Scores are `soft_cap * tanh(scores / soft_cap)`."""
    window: int | None = None
    """How many tokens back a token sees, itself included; None for all."""

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.num_key_value_heads * self.head_dim

    def init(self, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "Attention":
        return self.kind.init(self, layers, dtype, key=key)

    def norms(self, layers: tuple[int, ...], dtype: Any) -> tuple[Norm | None, Norm | None]:
        """Those of q and of k."""
        if self.qk_norm is None:
            return None, None
        if self.qk_norm_over == "head_size":
            sizes, axes = (self.head_dim,) * 2, ("head_size",) * 2
        else:
            sizes, axes = (self.width, self.kv_width), ("heads", "kv_heads")
        q_norm, k_norm = (self.qk_norm.init(size, layers, dtype, axis) for size, axis in zip(sizes, axes, strict=True))
        return q_norm, k_norm


class Attention(eqx.Module):
    """Grouped-query attention of queries, keys and values that a subclass makes."""

    o_proj: eqx.AbstractVar[LinearLike]
    config: eqx.AbstractVar[AttentionConfig]

    @staticmethod
    @abc.abstractmethod
    def init(config: AttentionConfig, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "Attention":
        """With random weights, as many as a stack of `layers` has."""

    @property
    @abc.abstractmethod
    def qk_norms(self) -> tuple[Norm | None, Norm | None]:
        """Those of q and of k."""

    @abc.abstractmethod
    def qkv(self, x: Float[Array, "tokens embed"], keys: list[PRNGKeyArray | None]) -> list[Float[Array, "tokens _"]]:
        """Queries, keys and values; `keys` are three, for dropout."""

    def __call__(
        self,
        x: Float[Array, "tokens embed"],
        context: Context,
        window: Window,
        cache: LayerCache | None,
        *,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "tokens embed"], LayerCache | None]:
        """
        Args:
            window: of a stack whose layers differ in it; None for that of the config.
        """
        config = self.config
        *keys, o_key = split_keys(key, 4)
        rows = context.starts.shape

        def heads(flat: Float[Array, "tokens width"]) -> Float[Array, "batch seq heads head_size"]:
            return flat.reshape(*rows, -1, config.head_dim)

        def normed(q: Array, k: Array) -> tuple[Array, Array]:
            q_norm, k_norm = self.qk_norms
            return (q, k) if q_norm is None or k_norm is None else (q_norm(q), k_norm(k))

        q, k, v = self.qkv(x, keys)
        norms_heads = config.qk_norm_over == "head_size"
        if not norms_heads:
            q, k = normed(q, k)
        q, k, v = heads(q), heads(k), heads(v)
        if norms_heads and not config.qk_norm_after_rotary:
            q, k = normed(q, k)
        if config.rotary is not None:
            q, k = context.rotated(q, config.rotary), context.rotated(k, config.rotary)
        if norms_heads and config.qk_norm_after_rotary:
            q, k = normed(q, k)
        if config.query_growth is not None:
            q = q * config.query_growth(context.positions)[..., None, None].astype(q.dtype)
        if cache is not None:
            assert context.cache_start is not None
            cache = kv_cache.write(cache, context.cache_start, k, v)
            k, v = cache.k, cache.v
        window = config.window if window is None else window
        out = context.attend(q, k, v, window, scale=config.scale, soft_cap=config.soft_cap)
        return product(self.o_proj, out.reshape(x.shape[0], -1), o_key), cache


def separate_projections(
    config: AttentionConfig, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray
) -> dict[str, Linear]:
    """`q_proj`, `k_proj`, `v_proj` and `o_proj`."""
    keys = jax.random.split(key, 4)

    def linear(key: PRNGKeyArray, out: int, in_: int, axes: tuple[str, str], bias: bool) -> Linear:
        return Linear.init(out, in_, axes=axes, bias=bias, layers=layers, dtype=dtype, key=key)

    hidden, width, kv_width = config.hidden_size, config.width, config.kv_width
    return {
        "q_proj": linear(keys[0], width, hidden, ("heads", "embed"), config.qkv_bias),
        "k_proj": linear(keys[1], kv_width, hidden, ("kv_heads", "embed"), config.qkv_bias),
        "v_proj": linear(keys[2], kv_width, hidden, ("kv_heads", "embed"), config.qkv_bias),
        "o_proj": linear(keys[3], hidden, width, ("embed", "heads"), config.o_bias),
    }


class SelfAttention(Attention):
    """q, k and v from weights of their own."""

    q_proj: LinearLike
    k_proj: LinearLike
    v_proj: LinearLike
    o_proj: LinearLike
    q_norm: Norm | None
    k_norm: Norm | None
    config: AttentionConfig = eqx.field(static=True)

    @staticmethod
    def init(config: AttentionConfig, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "SelfAttention":
        q_norm, k_norm = config.norms(layers, dtype)
        projections = separate_projections(config, layers, dtype, key=key)
        return SelfAttention(**projections, q_norm=q_norm, k_norm=k_norm, config=config)

    @property
    def qk_norms(self) -> tuple[Norm | None, Norm | None]:
        return self.q_norm, self.k_norm

    def qkv(self, x: Float[Array, "tokens embed"], keys: list[PRNGKeyArray | None]) -> list[Float[Array, "tokens _"]]:
        return products((self.q_proj, self.k_proj, self.v_proj), x, keys)


class FusedSelfAttention(Attention):
    """q, k and v from the rows of one weight, in this order."""

    qkv_proj: LinearLike
    o_proj: LinearLike
    q_norm: Norm | None
    k_norm: Norm | None
    config: AttentionConfig = eqx.field(static=True)

    @staticmethod
    def init(
        config: AttentionConfig, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray
    ) -> "FusedSelfAttention":
        qkv_key, o_key = jax.random.split(key)
        hidden, width = config.hidden_size, config.width
        options: dict[str, Any] = dict(layers=layers, dtype=dtype)
        out, axes = width + 2 * config.kv_width, ("qkv", "embed")
        q_norm, k_norm = config.norms(layers, dtype)
        return FusedSelfAttention(
            qkv_proj=Linear.init(out, hidden, axes=axes, bias=config.qkv_bias, **options, key=qkv_key),
            o_proj=Linear.init(hidden, width, axes=("embed", "heads"), bias=config.o_bias, **options, key=o_key),
            q_norm=q_norm,
            k_norm=k_norm,
            config=config,
        )

    @property
    def qk_norms(self) -> tuple[Norm | None, Norm | None]:
        return self.q_norm, self.k_norm

    def qkv(self, x: Float[Array, "tokens embed"], keys: list[PRNGKeyArray | None]) -> list[Float[Array, "tokens _"]]:
        return fused_products(self.qkv_proj, self.part_axes(), x, keys[0])

    def part_axes(self) -> tuple[tuple[str, int], ...]:
        heads, kv_heads = ("heads", self.config.width), ("kv_heads", self.config.kv_width)
        return heads, kv_heads, kv_heads
