"""The ways in which a part of a step is timed compute the same."""

from collections.abc import Callable

import jax
import numpy as np
import pytest

from bench import kernels

PARTS: dict[str, Callable[[], kernels.Contestants]] = {
    "attention": lambda: kernels.attention(2, 32, None),
    "packed attention": lambda: kernels.attention(1, 64, 20),
    "a LoRA layer": lambda: kernels.lora_linear(24, 16, rank=3),
    "cross-entropy": lambda: kernels.cross_entropy(0.6),
}


@pytest.mark.parametrize("part", PARTS)
def test_the_ways_of_a_part_compute_the_same(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HIDDEN": 16, "TOKENS": 64, "VOCAB": 50}.items():
        monkeypatch.setattr(kernels, name, value)
    contestants = PARTS[part]()
    results = {name: function(*arguments) for name, (function, arguments) in contestants.items()}
    results.pop("base layer", None)
    expected, *others = map(jax.tree.leaves, results.values())
    assert others
    for found in others:
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
    assert all(milliseconds > 0 for milliseconds in kernels.measure(contestants, rounds=1).values())
