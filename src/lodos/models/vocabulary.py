"""A vocabulary with more tokens: rows added to the embedding and, where it is one of its own, to the output head."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from lodos.models.decoder import LmHeadModel, TextPart
from lodos.nn.embedding import Embedding
from lodos.nn.linear import Linear


def resize_vocab(model: LmHeadModel, vocab_size: int) -> LmHeadModel:
    """`model` with rows for `vocab_size` tokens; with fewer than it has, it is left as it is.

    A new row is the mean of those that were there, as in Stanford Alpaca's `smart_tokenizer_and_embedding_resize`: a
    new token is then about as likely as any, where a random row could be the likeliest of all.
    """
    config = model.config
    if vocab_size <= config.vocab_size:
        return model
    added = vocab_size - config.vocab_size
    embedding = model.decoder.embed_tokens
    assert isinstance(embedding, Embedding)  # an adapted one cannot grow: its adapter would have too few columns
    embedding = dataclasses.replace(embedding, weight=_with_mean_rows(embedding.weight, added))
    decoder = dataclasses.replace(
        model.decoder, embed_tokens=embedding, config=dataclasses.replace(config, vocab_size=vocab_size)
    )
    head = model.lm_head
    if head is not None:
        assert isinstance(head, Linear)  # an adapted head cannot grow: its adapter would have too few rows
        bias = None if head.bias is None else jnp.pad(head.bias, (0, added))
        head = dataclasses.replace(head, weight=_with_mean_rows(head.weight, added), bias=bias)
    return LmHeadModel(TextPart(decoder) if config.is_text_part else decoder, head)


def _with_mean_rows(weight: Float[Array, "vocab embed"], added: int) -> Float[Array, "more embed"]:
    mean = jnp.mean(weight.astype(jnp.float32), axis=0).astype(weight.dtype)
    return jnp.concatenate([weight, jnp.broadcast_to(mean, (added, weight.shape[1]))])
