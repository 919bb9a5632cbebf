from typing import Any

import jax
import numpy as np
import optax
import pytest

from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import lora_layers, with_factors
from lodos.train.precision import Policy
from lodos.train.step import train_step
from lodos.tree import partition
from tiny_training import compute_loss, make_batch


@pytest.fixture(params=[0.0, 0.3], ids=["without dropout", "with dropout"])
def trained(base: Any, request: pytest.FixtureRequest) -> Any:
    """A model whose B is not zero, so that A has gradients."""
    from lodos.lora.config import LoraConfig
    from lodos.lora.transform import loraize

    model = loraize(base, LoraConfig(r=4, dropout=request.param), key=jax.random.key(1))
    factors = {
        name: (layer.lora_A, 0.1 * jax.random.normal(jax.random.key(5), layer.lora_B.shape))
        for name, layer in lora_layers(model).items()
    }
    return with_factors(model, factors)


def gradient_step(model: Any, batch: Any, num_microbatches: int, clip: float | None = None) -> Any:
    """The gradient that one step hands to the optimizer, after clipping if asked for, and the step's metrics."""
    trace = optax.trace(decay=0.0)  # an optimizer whose state is the last gradient it was given
    optimizer = trace if clip is None else optax.chain(optax.clip_by_global_norm(clip), trace)
    trainable, frozen = partition(model, lora_trainable_params_filter(model))
    _, state, metrics = train_step(
        frozen,
        batch,
        trainable,
        optimizer.init(trainable),
        jax.random.key(0),
        compute_loss=compute_loss,
        optimizer=optimizer,
        policy=Policy.parse("f32"),
        num_microbatches=num_microbatches,
        compute_mapping={},
        parameter_mapping={},
    )
    traced = state if clip is None else state[1]
    return jax.tree.map(np.asarray, traced.trace), metrics


@pytest.mark.parametrize("num_microbatches", [2, 4, 8])
def test_microbatches_give_the_whole_batchs_loss_and_gradients(trained: Any, num_microbatches: int) -> None:
    batch = make_batch(0)
    counts = np.asarray(batch.loss_weight).sum(axis=1)
    assert len(set(counts.tolist())) > 3  # unequal token counts, or a mean of means would do
    whole, metrics = gradient_step(trained, batch, 1)
    parts, part_metrics = gradient_step(trained, batch, num_microbatches)
    assert float(part_metrics.loss) == pytest.approx(float(metrics.loss), rel=1e-6)
    for expected, found in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_a_microbatch_without_weight_adds_nothing(trained: Any) -> None:
    batch = make_batch(0)
    batch.loss_weight[2] = 0
    whole, metrics = gradient_step(trained, batch, 1)
    parts, part_metrics = gradient_step(trained, batch, 8)
    assert float(part_metrics.loss) == pytest.approx(float(metrics.loss), rel=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(parts))
    assert max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True)) < 1e-5


@pytest.mark.parametrize("num_microbatches", [1, 8])
def test_a_batch_without_any_weight_has_loss_zero(trained: Any, num_microbatches: int) -> None:
    batch = make_batch(0)
    batch.loss_weight[:] = 0
    gradients, metrics = gradient_step(trained, batch, num_microbatches)
    assert float(metrics.loss) == 0.0
    assert bool(metrics.finite)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradients))


def test_the_gradient_norm_is_that_of_the_factors_alone(trained: Any) -> None:
    gradients, metrics = gradient_step(trained, make_batch(0), 1)
    norm = np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(gradients)))
    assert float(metrics.grad_norm) == pytest.approx(norm, rel=1e-4)


def test_clipping_sees_the_whole_batchs_gradient(trained: Any) -> None:
    batch = make_batch(0)
    _, metrics = gradient_step(trained, batch, 1)
    limit = float(metrics.grad_norm) / 3
    whole, _ = gradient_step(trained, batch, 1, clip=limit)
    parts, _ = gradient_step(trained, batch, 8, clip=limit)
    norm = np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(whole)))
    assert norm == pytest.approx(limit, rel=1e-4)
    for expected, found in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_metrics_count_tokens(trained: Any) -> None:
    batch = make_batch(3)
    _, metrics = gradient_step(trained, batch, 2)
    assert float(metrics.trained_tokens) == batch.loss_weight.sum()
    assert int(metrics.tokens) == (np.asarray(batch.segment_ids) > 0).sum()


def test_a_rows_gradient_depends_neither_on_the_other_rows_nor_on_its_padding(trained: Any) -> None:
    """With dropout too: what is dropped follows from the row's place in the batch alone."""
    batch = make_batch(0)
    batch.loss_weight[np.arange(8) != 5] = 0
    alone, _ = gradient_step(trained, batch, 1)
    others = make_batch(1)
    others = jax.tree.map(lambda other, own: np.concatenate([other[:5], own[5:6], other[6:]]), others, batch)
    others.loss_weight[np.arange(8) != 5] = 0
    longer = jax.tree.map(lambda x: np.pad(x, ((0, 0), (0, 7))), batch)
    for changed in (others, longer):
        found, _ = gradient_step(trained, changed, 1)
        for expected, leaf in zip(jax.tree.leaves(alone), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(leaf, expected, atol=2e-6 * np.abs(expected).max())
