"""Batches are the same for everybody, and lodos predicts what transformers does."""

import numpy as np
import pytest
from bench.peers.lodos_steps import example_of
from bench.peers.random_tokens import IGNORED, RandomTokens


def test_a_batch_is_a_function_of_its_number() -> None:
    batches = RandomTokens(2, 8, 100)
    assert np.array_equal(batches.batch(3), RandomTokens(2, 8, 100).batch(3))
    assert not np.array_equal(batches.batch(3)[0], batches.batch(4)[0])


@pytest.mark.parametrize("trained", [1.0, 0.6, 0.1])
def test_as_many_are_trained_as_is_said(trained: float) -> None:
    batches = RandomTokens(3, 20, 100, trained)
    _, labels = batches.batch(0)
    assert np.mean(labels != IGNORED) == pytest.approx(trained)
    # transformers shifts the labels: the first of a row is nobody's target.
    assert (labels[:, 1:] != IGNORED).sum() == batches.trained_per_batch
    assert example_of(batches, 0).loss_weight.sum() == batches.trained_per_batch


def test_packed_examples_are_about_as_long_as_asked_and_predict_nothing_of_the_next() -> None:
    batches = RandomTokens(2, 1000, 100, example_length=40)
    segments, positions = batches.segments(0)
    for row in range(2):
        lengths = np.bincount(segments[row])[1:]
        assert lengths[:-1].min() >= 20
        assert lengths.max() <= 60
        assert np.array_equal(positions[row], np.concatenate([np.arange(length) for length in lengths]))
    example = example_of(batches, 0)
    last = np.append(segments[:, 1:] != segments[:, :-1], np.ones((2, 1), bool), axis=1)
    assert np.array_equal(example.loss_weight == 0, last)
