"""A decoder-only language model: embeddings, stacked layers, a final norm and an output head.

One implementation for every `model_type`: it runs the layers that `DecoderConfig` has.
It knows nothing of files, tokenizers or training.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lodos.models.config import DecoderConfig, StackConfig
from lodos.models.context import Context
from lodos.models.layers import DecoderLayer
from lodos.nn.attention.attention import AttentionImplementation
from lodos.nn.attention.segments import segment_starts
from lodos.nn.cross_entropy import WeightedLoss, next_token_loss
from lodos.nn.dropout import row_keys, split_key, token_keys
from lodos.nn.embedding import Embedding, EmbeddingLike, TiedHead
from lodos.nn.kv_cache import KVCache, LayerCache
from lodos.nn.linear import Linear, LinearLike
from lodos.nn.norm import Norm
from lodos.nn.rotary import rotary_tables
from lodos.nn.stacked import GradientCheckpointing, Period, Stacked, Stacks
from lodos.row_parts import own_part, whole_rows
from lodos.sharding import constrain
from lodos.tree import member_name
from lodos.types import LmExample

_NO_WINDOW = 2**30
"""More than any position, and far enough from the end of int32 to be subtracted."""


class Decoder(eqx.Module):
    """Tokens in, the hidden states that the output head reads out."""

    embed_tokens: EmbeddingLike
    layers: Stacked | Stacks
    norm: Norm
    config: DecoderConfig = eqx.field(static=True)
    attn_implementation: AttentionImplementation = eqx.field(static=True, default="auto")

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

        Without a key no element is dropped: that is evaluation. A key is one, or one for each row.
        """
        key = None if key is None else row_keys(key, tokens.shape[0])
        context, cache = self._context(segment_ids, positions, cache)
        window, windows = _windows(self.config)

        def layer(
            layer: DecoderLayer, x: Array, inputs: tuple[Array | None, LayerCache | None], key: PRNGKeyArray | None
        ) -> tuple[Array, LayerCache | None]:
            own_window, layer_cache = inputs
            x, layer_cache = layer(
                constrain(x, "tokens", None),
                context,
                window if own_window is None else own_window,
                layer_cache,
                key=key,
            )
            return constrain(x, "tokens", None), layer_cache

        x = self.embed_tokens(tokens.reshape(-1))
        if self.config.embedding_multiplier is not None:
            x = x * jnp.asarray(self.config.embedding_multiplier, x.dtype)
        x = constrain(x, "tokens", None)
        x, layer_caches = self.layers.fold(layer, x, (windows, cache and cache.layers), key=key)
        if cache is not None:
            cache = KVCache(layer_caches, cache.segment_ids, cache.used)
        x = self.norm(x)
        if self.config.logits_multiplier is not None:  # of hidden states, which are fewer; the head is linear
            x = x * jnp.asarray(self.config.logits_multiplier, x.dtype)
        return x, cache

    def _context(self, segment_ids: Array, positions: Array, cache: KVCache | None) -> tuple[Context, KVCache | None]:
        rotaries = self.config.rotaries
        tables = tuple(rotary_tables(positions, segment_ids, rotary) for rotary in rotaries)
        if cache is None:
            starts = own_part(segment_starts(whole_rows(segment_ids)), segment_ids.shape[1])
            return Context(tables, rotaries, positions, starts, None, self.attn_implementation), None
        extended = cache.extend_segments(segment_ids)
        new = segment_ids.shape[1]
        starts = jax.lax.dynamic_slice_in_dim(segment_starts(extended.segment_ids), cache.used, new, axis=1)
        return Context(tables, rotaries, positions, starts, cache.used, self.attn_implementation), extended


class TextPart(eqx.Module):
    """The decoder of a model of more than text, under the name that it has there. The rest stays in the files."""

    language_model: Decoder


class LmHeadModel(eqx.Module):
    """A decoder with its output head; `lm_head` is None where the head is the embedding itself."""

    model: Decoder | TextPart
    lm_head: LinearLike | None

    @staticmethod
    def init(
        config: DecoderConfig,
        *,
        scan_layers: bool = True,
        gradient_checkpointing: GradientCheckpointing = "dots",
        attn_implementation: AttentionImplementation = "auto",
        dtype: Any = jnp.float32,
        key: PRNGKeyArray,
    ) -> "LmHeadModel":
        """A model with random weights."""
        embed_key, layer_key, head_key = jax.random.split(key, 3)
        decoder = Decoder(
            embed_tokens=Embedding.init(config.vocab_size, config.hidden_size, dtype=dtype, key=embed_key),
            layers=_layers(config.stacks, (scan_layers, gradient_checkpointing), dtype, key=layer_key),
            norm=config.norm.init(config.hidden_size, (), dtype),
            config=config,
            attn_implementation=attn_implementation,
        )
        head = Linear.init(config.vocab_size, config.hidden_size, axes=("vocab", "embed"), dtype=dtype, key=head_key)
        model = TextPart(decoder) if config.is_text_part else decoder
        return LmHeadModel(model, None if config.tie_word_embeddings else head)

    @property
    def decoder(self) -> Decoder:
        """By whatever name the model has it."""
        return self.model.language_model if isinstance(self.model, TextPart) else self.model

    @property
    def config(self) -> DecoderConfig:
        return self.decoder.config

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
        hidden, _ = self.decoder(tokens, segment_ids, positions, key=key)
        return self.logits(hidden).reshape(*tokens.shape, -1)

    def logits(
        self, hidden: Float[Array, "tokens embed"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "tokens vocab"]:
        """What the output head makes of hidden states."""
        logits, cap = self.output_head(hidden, key=key), self.config.final_logit_softcapping
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    @property
    def output_head(self) -> TiedHead | LinearLike:
        """What makes logits of hidden states: `lm_head`, or the embedding where they are tied."""
        if self.lm_head is not None:
            return self.lm_head
        assert isinstance(self.decoder.embed_tokens, Embedding)  # one that is tied is not adapted
        return TiedHead(self.decoder.embed_tokens)

    def compute_loss(self, example: LmExample, *, z_loss: float = 0.0, key: PRNGKeyArray | None = None) -> WeightedLoss:
        """The weighted cross-entropy of the batch; `.scalar()` is its mean in nats a token.

        Args:
            z_loss: the weight of `log(sum(exp(logits)))^2`, which keeps logits from drifting.
            key: for dropout: one, or one for each row, from which alone follows what of the row is dropped.
        """
        head_key = None
        if key is not None:
            rows, length = example.tokens.shape
            key, head_key = split_key(row_keys(key, rows), 2)
            head_key = token_keys(head_key, length)
        hidden, _ = self.decoder(example.tokens, example.segment_ids, example.positions, key=key)
        targets, weights = example.targets.reshape(-1), example.loss_weight.reshape(-1)
        soft_cap = self.config.final_logit_softcapping
        head = self.output_head
        return next_token_loss(head, hidden, targets, weights, soft_cap=soft_cap, z_loss=z_loss, key=head_key)


def _layers(
    stacks: Sequence[StackConfig], options: tuple[bool, GradientCheckpointing], dtype: Any, *, key: PRNGKeyArray
) -> Stacked | Stacks:
    if len(stacks) == 1 and len(stacks[0].period) == 1:
        (layer,), repeats = stacks[0].period, stacks[0].repeats
        return Stacked(layer.init((repeats,), dtype, key=key), repeats, *options)
    made, first = [], 0
    for stack in stacks:
        members = {}
        for place, layer in enumerate(stack.period, first):
            own_key = jax.random.fold_in(key, place)
            members[member_name(place, len(stack.period))] = layer.init((stack.repeats,), dtype, key=own_key)
        made.append(Stacked(Period(members), stack.num_layers, *options))
        first += stack.num_layers
    return Stacks(tuple(made))


def _windows(config: DecoderConfig) -> tuple[int | None, Int[Array, " layers"] | None]:
    """The window of all layers, or else of each."""
    windows = config.sliding_windows
    if windows is None or len(set(windows)) == 1:
        return (None if windows is None else windows[0]), None
    return None, jnp.asarray([_NO_WINDOW if window is None else window for window in windows], jnp.int32)
