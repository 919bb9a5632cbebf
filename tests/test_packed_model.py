"""Packing changes nothing that the model computes: an example's loss is the same alone and among neighbours."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.data.batching.batches import make_batch
from lodos.data.batching.loader import EvalLoader, TrainLoader
from lodos.data.examples import TokenizedExample
from lodos.models.decoder import LmHeadModel
from lodos.types import LmExample
from tiny_training import VOCAB, tiny_config

SEQ_LEN = 48


@pytest.fixture(scope="module", params=[None, 5], ids=["full attention", "sliding window"])
def model(request: pytest.FixtureRequest) -> LmHeadModel:
    """Weights large enough that what a token attends to matters."""
    config = tiny_config(sliding_windows=(request.param, request.param))
    model = LmHeadModel.init(config, key=jax.random.key(0))
    leaves, structure = jax.tree.flatten(model)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, leaves)


def make_examples(lengths: Sequence[int], seed: int = 0) -> list[TokenizedExample]:
    rng = np.random.default_rng(seed)
    return [
        TokenizedExample(rng.integers(0, VOCAB, n, np.int32), rng.random(n) < 0.7, "made.json", i)
        for i, n in enumerate(lengths)
    ]


@eqx.filter_jit
def weighted_sum(model: LmHeadModel, batch: LmExample) -> Any:
    return model.compute_loss(batch).total


@eqx.filter_jit
def gradient(model: LmHeadModel, batch: LmExample) -> LmHeadModel:
    return eqx.filter_grad(lambda model: model.compute_loss(batch).scalar())(model)


def loss_of_segment(model: LmHeadModel, batch: Any, row: int, segment: int) -> float:
    """The loss that training gives one example of a batch: the others' weights are taken away."""
    chosen = batch.segment_ids == segment
    chosen &= np.arange(len(chosen))[:, None] == row
    return float(weighted_sum(model, eqx.tree_at(lambda b: b.loss_weight, batch, batch.loss_weight * chosen)))


def test_an_example_has_the_same_loss_packed_and_alone(model: LmHeadModel) -> None:
    examples = make_examples([12, 3, 30, 9, 21, 2, 17, 40, 5, 11])
    loader = EvalLoader(examples, batch_size=2, pad_id=0, seq_len=SEQ_LEN)
    alone = [float(weighted_sum(model, make_batch([[e]], pad_id=0, length=SEQ_LEN))) for e in examples]
    packed = {
        example: loss_of_segment(model, loader[k], i, segment)
        for k in range(len(loader))
        for i, row in enumerate(loader.rows(k))
        for segment, example in enumerate(row, 1)
    }
    assert max(len(row) for k in range(len(loader)) for row in loader.rows(k)) > 2  # neighbours on both sides
    assert [packed[i] for i in range(len(examples))] == pytest.approx(alone, rel=1e-5)


def test_changing_one_example_changes_no_bit_of_its_neighbours_losses(model: LmHeadModel) -> None:
    examples, others = make_examples([12, 16, 10, 9], seed=1), make_examples([12, 16, 10, 9], seed=2)
    before = make_batch([examples], pad_id=0, length=SEQ_LEN)
    losses = [loss_of_segment(model, before, 0, segment) for segment in (1, 2, 3, 4)]
    for changed in range(4):
        row = [*examples[:changed], others[changed], *examples[changed + 1 :]]
        after = make_batch([row], pad_id=0, length=SEQ_LEN)
        for segment in (1, 2, 3, 4):
            loss = loss_of_segment(model, after, 0, segment)
            assert (loss == losses[segment - 1]) == (segment - 1 != changed)


def test_what_fills_a_row_changes_no_bit(model: LmHeadModel) -> None:
    examples = make_examples([12, 16])
    sums = [float(weighted_sum(model, make_batch([examples], pad_id=pad, length=SEQ_LEN))) for pad in (0, 7)]
    assert sums[0] == sums[1]


def test_an_epochs_gradient_is_the_same_packed_and_padded(model: LmHeadModel) -> None:
    examples = make_examples([12, 3, 30, 9, 21, 2, 17, 40, 5, 11])
    packed = TrainLoader(examples, batch_size=1, pad_id=0, seed=0, seq_len=SEQ_LEN)
    packed = TrainLoader(examples, batch_size=packed.row_count, pad_id=0, seed=0, seq_len=SEQ_LEN)
    padded = TrainLoader(examples, batch_size=len(examples), pad_id=0, seed=0, lengths=[SEQ_LEN])
    assert packed.row_count < len(examples)
    for a, b in zip(*(jax.tree.leaves(gradient(model, loader[0])) for loader in (packed, padded)), strict=True):
        assert jnp.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))
