"""The shape of a tiny model, and batches and a loss for tests that train one."""

import dataclasses
from typing import Any

import numpy as np

from lodos.models.config import DecoderConfig
from lodos.models.decoder import LmHeadModel
from lodos.models.llama import decoder_config
from lodos.types import LmExample

VOCAB = 64


def tiny_config(**changes: Any) -> DecoderConfig:
    """Two layers with grouped heads, or what `changes` make of them."""
    shape: dict[str, Any] = dict(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    shape |= changes
    own = {name: shape.pop(name) for name in ("sliding_windows",) if name in shape}
    config = decoder_config({**shape, "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 64})
    return dataclasses.replace(config, **own)


def compute_loss(model: LmHeadModel, example: LmExample, key: Any = None) -> Any:
    return model.compute_loss(example, key=key).scalar()


def table_loss(model: dict[str, Any], example: LmExample, key: Any = None) -> Any:
    """A loss of a table of numbers, one for each token, that is compiled in no time."""
    weighted = example.loss_weight * (model["table"][example.tokens] - 1.0) ** 2
    return weighted.sum() / example.loss_weight.sum()


def make_batch(seed: int, *, rows: int = 8, length: int = 12) -> LmExample:
    """Rows with different numbers of trained tokens, the last of which is filler in half of them."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, (rows, length + 1)).astype(np.int32)
    index = np.arange(length)
    real = index < rng.integers(4, length + 1, (rows, 1))
    trained = real & (index >= rng.integers(0, 4, (rows, 1)))
    positions = np.where(real, index, 0).astype(np.int32)
    return LmExample(tokens[:, :-1], tokens[:, 1:], trained.astype(np.float32), real.astype(np.int32), positions)


class Batches:
    """An endless loader whose batch k depends on k alone."""

    def iter_from_step(self, step: int) -> Any:
        while True:
            yield make_batch(step)
            step += 1

    def __iter__(self) -> Any:
        return self.iter_from_step(0)
