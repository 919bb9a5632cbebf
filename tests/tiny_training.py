"""Batches and a loss for tests that train a tiny model."""

from typing import Any

import numpy as np

from lodos.models.decoder import LmHeadModel
from lodos.types import LmExample

VOCAB = 64


def compute_loss(model: LmHeadModel, example: LmExample, key: Any = None) -> Any:
    return model.compute_loss(example, key=key).scalar()


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
