"""The two halves of a decoder layer: attention and the gated MLP, named as in Hugging Face's models.

Linear layers see `[tokens, features]`; attention alone sees `[batch, seq, heads, head_size]`. A layer's linear
parts may be `Linear` or whatever is like one; those that read one input are called together (`products`).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lodos.models.config import DecoderConfig
from lodos.nn import kv_cache
from lodos.nn.attention.attention import AttentionImplementation, Window, attention
from lodos.nn.attention.plain import plain_attention
from lodos.nn.attention.segments import first_visible
from lodos.nn.dropout import split_key
from lodos.nn.kv_cache import LayerCache
from lodos.nn.linear import Linear, LinearLike
from lodos.nn.norm import RMSNorm
from lodos.nn.products import product, products
from lodos.nn.rotary import apply_rotary

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}


class Context(eqx.Module):
    """What every layer needs to know of the tokens: where they are and who sees whom.

    A token sees those from the start of its segment to itself and, with a window, no more than `window` of them.
    """

    cos: Float[Array, "batch seq half"]
    sin: Float[Array, "batch seq half"]
    starts: Int[Array, "batch seq"]
    """The index, among the keys, of the first token of each token's segment; of filler its own."""
    cache_start: Int[Array, ""] | None
    """Where new keys go in the cache."""
    attn_implementation: AttentionImplementation = eqx.field(static=True)

    def attend(
        self,
        q: Float[Array, "batch seq heads head_size"],
        k: Float[Array, "batch keys kv_heads head_size"],
        v: Float[Array, "batch keys kv_heads head_size"],
        window: Window,
    ) -> Float[Array, "batch seq heads head_size"]:
        """The attention of new tokens to themselves or, with a cache, to what it holds."""
        if self.cache_start is None:
            return attention(q, k, v, self.starts, window, implementation=self.attn_implementation)
        slots = self.cache_start + jnp.arange(q.shape[1], dtype=self.starts.dtype)
        return plain_attention(q, k, v, first_visible(self.starts, slots, window), slots)


class SelfAttention(eqx.Module):
    """Grouped-query attention with rotary positions."""

    q_proj: LinearLike
    k_proj: LinearLike
    v_proj: LinearLike
    o_proj: LinearLike
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    head_dim: int = eqx.field(static=True)

    @staticmethod
    def init(config: DecoderConfig, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "SelfAttention":
        keys = jax.random.split(key, 4)
        width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim

        def linear(key: PRNGKeyArray, out: int, in_: int, axes: tuple[str, str], bias: bool) -> Linear:
            return Linear.init(out, in_, axes=axes, bias=bias, layers=layers, dtype=dtype, key=key)

        def norm() -> RMSNorm | None:
            weight = jnp.ones((*layers, config.head_dim), dtype)
            return RMSNorm(weight, config.rms_norm_eps, "head_size") if config.qk_norm else None

        return SelfAttention(
            q_proj=linear(keys[0], width, config.hidden_size, ("heads", "embed"), config.qkv_bias),
            k_proj=linear(keys[1], kv_width, config.hidden_size, ("kv_heads", "embed"), config.qkv_bias),
            v_proj=linear(keys[2], kv_width, config.hidden_size, ("kv_heads", "embed"), config.qkv_bias),
            o_proj=linear(keys[3], config.hidden_size, width, ("embed", "heads"), config.o_bias),
            q_norm=norm(),
            k_norm=norm(),
            head_dim=config.head_dim,
        )

    def __call__(
        self,
        x: Float[Array, "tokens embed"],
        context: Context,
        window: Window,
        cache: LayerCache | None,
        *,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "tokens embed"], LayerCache | None]:
        *keys, o_key = _split(key, 4)
        rows = context.cos.shape[:2]

        def heads(flat: Float[Array, "tokens width"]) -> Float[Array, "batch seq heads head_size"]:
            return flat.reshape(*rows, -1, self.head_dim)

        q, k, v = map(heads, products((self.q_proj, self.k_proj, self.v_proj), x, keys))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = apply_rotary(q, context.cos, context.sin), apply_rotary(k, context.cos, context.sin)
        if cache is not None:
            assert context.cache_start is not None
            cache = kv_cache.write(cache, context.cache_start, k, v)
            k, v = cache.k, cache.v
        out = context.attend(q, k, v, window)
        return product(self.o_proj, out.reshape(x.shape[0], -1), o_key), cache


class MLP(eqx.Module):
    """`down(act(gate(x)) * up(x))` (Shazeer 2020, arXiv:2002.05202)."""

    gate_proj: LinearLike
    up_proj: LinearLike
    down_proj: LinearLike
    hidden_act: str = eqx.field(static=True)

    @staticmethod
    def init(config: DecoderConfig, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "MLP":
        keys = jax.random.split(key, 3)
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias

        def linear(key: PRNGKeyArray, out: int, in_: int, axes: tuple[str, str]) -> Linear:
            return Linear.init(out, in_, axes=axes, bias=bias, layers=layers, dtype=dtype, key=key)

        return MLP(
            gate_proj=linear(keys[0], inner, hidden, ("mlp", "embed")),
            up_proj=linear(keys[1], inner, hidden, ("mlp", "embed")),
            down_proj=linear(keys[2], hidden, inner, ("embed", "mlp")),
            hidden_act=config.hidden_act,
        )

    def __call__(self, x: Float[Array, "tokens embed"], *, key: PRNGKeyArray | None) -> Float[Array, "tokens embed"]:
        *keys, down_key = _split(key, 3)
        gate, up = products((self.gate_proj, self.up_proj), x, keys)
        return product(self.down_proj, ACTIVATIONS[self.hidden_act](gate) * up, down_key)


class DecoderLayer(eqx.Module):
    """Pre-norm attention and MLP, each added to its input."""

    input_layernorm: RMSNorm
    self_attn: SelfAttention
    post_attention_layernorm: RMSNorm
    mlp: MLP

    @staticmethod
    def init(config: DecoderConfig, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "DecoderLayer":
        attention_key, mlp_key = jax.random.split(key)

        def norm() -> RMSNorm:
            return RMSNorm(jnp.ones((*layers, config.hidden_size), dtype), config.rms_norm_eps)

        return DecoderLayer(
            input_layernorm=norm(),
            self_attn=SelfAttention.init(config, layers, dtype, key=attention_key),
            post_attention_layernorm=norm(),
            mlp=MLP.init(config, layers, dtype, key=mlp_key),
        )

    def __call__(
        self,
        x: Float[Array, "tokens embed"],
        context: Context,
        window: Window,
        cache: LayerCache | None,
        *,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "tokens embed"], LayerCache | None]:
        attention_key, mlp_key = _split(key, 2)
        attended, cache = self.self_attn(self.input_layernorm(x), context, window, cache, key=attention_key)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x), key=mlp_key), cache


def _split(key: PRNGKeyArray | None, count: int) -> list[PRNGKeyArray | None]:
    return [None] * count if key is None else list(split_key(key, count))
