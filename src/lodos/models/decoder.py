"""A decoder-only language model: embeddings, stacked layers, a final norm and an output head.

One implementation for every `model_type`: what differs between Llama, Mistral and Qwen is in `DecoderConfig`.
It knows nothing of files, tokenizers or training.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lodos.models.config import DecoderConfig
from lodos.models.layers import Context, DecoderLayer, LinearLike
from lodos.nn.cross_entropy import WeightedLoss, next_token_loss
from lodos.nn.embedding import Embedding
from lodos.nn.kv_cache import KVCache, LayerCache
from lodos.nn.linear import Linear
from lodos.nn.norm import RMSNorm
from lodos.nn.rotary import rotary_tables
from lodos.nn.stacked import GradientCheckpointing, Stacked
from lodos.sharding import constrain
from lodos.types import LmExample

_NO_WINDOW = jnp.iinfo(jnp.int32).max


class Decoder(eqx.Module):
    """Tokens in, the hidden states that the output head reads out."""

    embed_tokens: Embedding
    layers: Stacked
    norm: RMSNorm
    config: DecoderConfig = eqx.field(static=True)

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        segment_ids: Int[Array, "batch seq"],
        positions: Int[Array, "batch seq"],
        *,
        cache: KVCache | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "batch*seq embed"], KVCache | None]:
        """The hidden state of each token, rows one after another, and the cache with these tokens in it.

        Without a key no element is dropped: that is evaluation.
        """
        context, cache = self._context(segment_ids, positions, cache)
        windows = _windows(self.config)

        def layer(
            layer: DecoderLayer, x: Array, inputs: tuple[Array | None, LayerCache | None], key: PRNGKeyArray | None
        ) -> tuple[Array, LayerCache | None]:
            window, layer_cache = inputs
            x, layer_cache = layer(constrain(x, "tokens", None), context, window, layer_cache, key=key)
            return constrain(x, "tokens", None), layer_cache

        x = constrain(self.embed_tokens(tokens.reshape(-1)), "tokens", None)
        x, layer_caches = self.layers.fold(layer, x, (windows, cache and cache.layers), key=key)
        if cache is not None:
            cache = KVCache(layer_caches, cache.segment_ids, cache.used)
        return self.norm(x), cache

    def _context(self, segment_ids: Array, positions: Array, cache: KVCache | None) -> tuple[Context, KVCache | None]:
        index = jnp.arange(segment_ids.shape[1])
        if cache is None:
            start, key_segments, query_index, key_index = None, segment_ids, index, index
        else:
            start = cache.used
            cache = cache.extend_segments(segment_ids)
            key_segments = cache.segment_ids
            query_index, key_index = start + index, jnp.arange(key_segments.shape[1])
        distance = jnp.broadcast_to(query_index[:, None] - key_index[None, :], (1, len(index), len(key_index)))
        visible = (distance >= 0) & (segment_ids[:, :, None] == key_segments[:, None, :])
        cos, sin = rotary_tables(positions, segment_ids, self.config.rotary)
        return Context(cos, sin, distance, visible, start), cache


class LmHeadModel(eqx.Module):
    """A decoder with its output head; `lm_head` is None where the head is the embedding itself."""

    model: Decoder
    lm_head: LinearLike | None

    @staticmethod
    def init(
        config: DecoderConfig,
        *,
        scan_layers: bool = True,
        gradient_checkpointing: GradientCheckpointing = "none",
        dtype: Any = jnp.float32,
        key: PRNGKeyArray,
    ) -> "LmHeadModel":
        """A model with random weights."""
        embed_key, layer_key, head_key = jax.random.split(key, 3)
        layer = DecoderLayer.init(config, (config.num_hidden_layers,), dtype, key=layer_key)
        decoder = Decoder(
            embed_tokens=Embedding.init(config.vocab_size, config.hidden_size, dtype=dtype, key=embed_key),
            layers=Stacked(layer, config.num_hidden_layers, scan_layers, gradient_checkpointing),
            norm=RMSNorm(jnp.ones((config.hidden_size,), dtype), config.rms_norm_eps),
            config=config,
        )
        head = Linear.init(config.vocab_size, config.hidden_size, axes=("vocab", "embed"), dtype=dtype, key=head_key)
        return LmHeadModel(decoder, None if config.tie_word_embeddings else head)

    @property
    def config(self) -> DecoderConfig:
        return self.model.config

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        *,
        segment_ids: Int[Array, "batch seq"] | None = None,
        positions: Int[Array, "batch seq"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch seq vocab"]:
        """The logits of every token; by default each row is one example."""
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden, _ = self.model(tokens, segment_ids, positions, key=key)
        return self.logits(hidden).reshape(*tokens.shape, -1)

    def logits(
        self, hidden: Float[Array, "tokens embed"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "tokens vocab"]:
        """What the output head makes of hidden states."""
        if self.lm_head is None:
            return self.model.embed_tokens.as_head(hidden)
        return self.lm_head(hidden, key=key)

    def compute_loss(self, example: LmExample, *, key: PRNGKeyArray | None = None) -> WeightedLoss:
        """The weighted cross-entropy of the batch; `.scalar()` is its mean in nats a token."""
        key, head_key = (None, None) if key is None else jax.random.split(key)
        hidden, _ = self.model(example.tokens, example.segment_ids, example.positions, key=key)
        targets, weights = example.targets.reshape(-1), example.loss_weight.reshape(-1)
        return next_token_loss(self.logits, hidden, targets, weights, key=head_key)


def _windows(config: DecoderConfig) -> Int[Array, " layers"] | None:
    if config.sliding_windows is None:
        return None
    return jnp.asarray([_NO_WINDOW if window is None else window for window in config.sliding_windows], jnp.int32)
