"""What is foretold of state and batches is what they are when they are there."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lodos.train.config import TrainerConfig
from lodos.train.optim import OptimizerConfig
from lodos.train.placement import batch_shapes, placed_batch, placed_state, state_shapes
from lodos.tree import named_leaves
from tiny_training import make_batch

KEY = jax.random.key(2)


def assert_foretold(foretold: Any, found: Any) -> None:
    """The same tree, and each array of the shape, dtype and layout that was foretold."""
    assert jax.tree.structure(foretold) == jax.tree.structure(found)
    for name, leaf in named_leaves(found).items():
        shape = named_leaves(foretold)[name]
        if not isinstance(leaf, jax.Array):
            assert shape is leaf, name
            continue
        assert isinstance(shape, jax.ShapeDtypeStruct), name
        assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype), name
        assert shape.sharding.is_equivalent_to(leaf.sharding, leaf.ndim), name


@pytest.mark.parametrize("mp", ["f32", "p=f32,c=bfloat16"])
@pytest.mark.parametrize(
    "optimizer", [OptimizerConfig().build(3), optax.adafactor(1e-3), optax.sgd(0.1)], ids=["adamw", "adafactor", "sgd"]
)
def test_a_state_is_foretold(model: Any, make_trainer: Any, optimizer: Any, mp: str) -> None:
    is_trainable = make_trainer(model).is_trainable
    config = TrainerConfig(mp=mp)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if eqx.is_array(x) else x, model)
    foretold = state_shapes(KEY, shapes, is_trainable, optimizer, config)
    assert_foretold(foretold, placed_state(KEY, model, is_trainable, optimizer, config))


def test_a_model_may_hold_functions_and_numbers() -> None:
    model = {"mlp": eqx.nn.MLP(2, 2, 3, 1, key=KEY), "rate": 0.5}
    config, optimizer = TrainerConfig(), optax.adam(1e-3)
    foretold = state_shapes(KEY, eqx.filter_eval_shape(lambda: model), True, optimizer, config)
    assert_foretold(foretold, placed_state(KEY, model, True, optimizer, config))
    assert foretold.model["rate"] == 0.5


@pytest.mark.parametrize(
    "batch", [make_batch(0), {"x": np.arange(8.0), "y": jnp.ones((8, 2, 3))}], ids=["examples", "arrays"]
)
def test_a_batch_is_foretold(batch: Any) -> None:
    config = TrainerConfig(train_batch_size=8)
    placed = placed_batch(batch, config)
    assert_foretold(batch_shapes(placed, config), placed)
    for found, given in zip(jax.tree.leaves(placed), jax.tree.leaves(batch), strict=True):
        assert np.array_equal(found, given)
