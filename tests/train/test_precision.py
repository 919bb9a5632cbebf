"""What a precision means for a training step; how it is written is tested in test_config.py."""

import functools
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.errors import UserError
from lodos.lora.transform import lora_layers
from lodos.train.precision import Policy
from lodos.train.step import train_step
from tiny_training import compute_loss, make_batch

KEY = jax.random.key(2)


@pytest.mark.parametrize("text", ["p=bf16", "p=bfloat16,c=bfloat16", "c=bf16,p=bf16", "bf16", "params=bf16"])
def test_parameters_alone_decide_the_computation_too(text: str) -> None:
    assert Policy.parse(text) == Policy(np.dtype(jnp.bfloat16), np.dtype(jnp.bfloat16))


def test_the_names_of_a_dtype_mean_the_same() -> None:
    assert Policy.parse("p=full,c=bf16") == Policy.parse("params=f32,compute=bfloat16") == Policy.parse("c=bfloat16")
    assert Policy.parse("params=float32,compute=bfloat16,output=bfloat16") == Policy.parse("p=f32,c=bf16,o=f32")


@pytest.mark.parametrize(
    ("text", "item"),
    [("p=f32,c=int8", "c=int8"), ("p=f32,c", "c"), ("p=f32,x=f32", "x=f32"), ("p:f32", "p:f32"), ("p=f32,", "")],
)
def test_what_is_not_understood_is_quoted_with_an_example(text: str, item: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"mp: {text!r} is not understood at {item!r}.")) as error:
        Policy.parse(text)
    assert "p=f32,c=bfloat16" in str(error.value)


@pytest.mark.parametrize("text", ["c=float16", "p=f32,c=f16", "f16", "p=float16", "params=f16,compute=f32,output=f32"])
def test_float16_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"mp: {text!r}: nothing is trained in float16")) as error:
        Policy.parse(text)
    assert "Write p=f32,c=bfloat16" in str(error.value)


@pytest.mark.parametrize(
    ("mp", "param", "compute"),
    [
        ("p=f32,c=bf16", jnp.float32, jnp.bfloat16),
        ("p=f32,c=f32", jnp.float32, jnp.float32),
        ("bf16", jnp.bfloat16, jnp.bfloat16),
    ],
)
def test_factors_are_kept_in_p_and_computed_with_in_c(
    model: Any, make_trainer: Any, mp: str, param: Any, compute: Any
) -> None:
    trainer = make_trainer(model, mp=mp)
    state = trainer.initial_state(KEY, model=model)
    assert dtypes(state.trainable) == {np.dtype(param)}
    seen = set()

    def watching_loss(model: Any, example: Any, key: Any = None) -> Any:
        for layer in lora_layers(model).values():
            seen.update({layer.lora_A.dtype, layer.lora_B.dtype})
        return compute_loss(model, example, key=key)

    step = functools.partial(
        train_step,
        compute_loss=watching_loss,
        optimizer=trainer.optimizer,
        policy=trainer.config.policy,
        num_microbatches=2,
        compute_mapping={},
        parameter_mapping={},
    )
    # Traced, not run: the dtypes are known without compiling anything.
    arguments = (state.frozen, make_batch(0), state.trainable, state.opt_state, KEY)
    trainable, opt_state, metrics = eqx.filter_eval_shape(step, *arguments)
    assert seen == {np.dtype(compute)}
    assert dtypes(trainable) == {np.dtype(param)}
    assert dtypes(opt_state) == dtypes(state.opt_state)
    assert metrics.loss.dtype == jnp.float32


def dtypes(tree: Any) -> set[np.dtype]:
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}
