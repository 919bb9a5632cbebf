"""Batches of random tokens without filler, the same for every contestant: batch k is a function of (seed, k)."""

from dataclasses import dataclass

import numpy as np

IGNORED = -100
"""The label of a token that is not trained, in transformers."""


@dataclass(frozen=True)
class RandomTokens:
    """What batches are like."""

    rows: int
    length: int
    vocab_size: int
    trained: float = 1.0
    """Share of each row's tokens that are trained, the last ones: what comes before is its prompt."""
    example_length: int | None = None
    """Rows are packed with examples of about so many tokens, from half of it to half more; None: a row is one."""
    seed: int = 0

    def batch(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and labels of batch k, int64 [rows, length], as transformers takes them: the model itself has
        each position predict the next, so a row's last position predicts nothing."""
        tokens = np.random.default_rng([self.seed, k]).integers(0, self.vocab_size, (self.rows, self.length))
        return tokens, np.where(np.arange(self.length) < self._prompt, IGNORED, tokens)

    def segments(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Of batch k, which example of its row each position belongs to, from 1, and its position within."""
        starts = np.zeros((self.rows, self.length), bool)
        starts[:, 0] = True
        if self.example_length is not None:
            draw = np.random.default_rng([self.seed, k, 1])
            least, most = self.example_length // 2, self.example_length + self.example_length // 2
            for row in starts:
                ends = np.cumsum(draw.integers(least, most + 1, self.length // least + 1))
                row[ends[ends < self.length]] = True
        index = np.broadcast_to(np.arange(self.length), starts.shape)
        return np.cumsum(starts, axis=1), index - np.maximum.accumulate(np.where(starts, index, 0), axis=1)

    @property
    def tokens_per_batch(self) -> int:
        return self.rows * self.length

    @property
    def trained_per_batch(self) -> int:
        """Positions that predict a trained token, where a row is one example."""
        return self.rows * (self.length - max(self._prompt, 1))

    @property
    def _prompt(self) -> int:
        return round((1 - self.trained) * self.length)
