import re

import jax.numpy as jnp
import numpy as np
import pytest

from lodos.errors import UserError
from lodos.train.config import TrainerConfig
from lodos.train.precision import Policy


@pytest.mark.parametrize(
    ("text", "param", "compute"),
    [
        ("p=f32,c=bfloat16", jnp.float32, jnp.bfloat16),
        ("params=float32, compute=bf16", jnp.float32, jnp.bfloat16),
        ("c=bf16", jnp.float32, jnp.bfloat16),
        ("bfloat16", jnp.bfloat16, jnp.bfloat16),
        ("f32", jnp.float32, jnp.float32),
    ],
)
def test_precision_is_read_as_written(text: str, param: object, compute: object) -> None:
    assert Policy.parse(text) == Policy(np.dtype(param), np.dtype(compute))


@pytest.mark.parametrize("text", ["p=f31", "x=f32", "fp8", ""])
def test_unknown_precision_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"mp: {text!r}")):
        TrainerConfig(mp=text)


def test_a_run_keeps_its_name() -> None:
    config = TrainerConfig()
    assert config.run_id == config.run_id
    assert TrainerConfig(id="mine").run_folder.parts == ("runs", "mine")
    assert TrainerConfig().run_id != TrainerConfig().run_id


def test_the_environment_may_name_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ID", "babysat")
    assert TrainerConfig().run_id == "babysat"
    assert TrainerConfig(id="mine").run_id == "mine"
    monkeypatch.setenv("RUN_ID", "a/b")
    with pytest.raises(UserError, match=r"\$RUN_ID: 'a/b' must be a plain folder name"):
        TrainerConfig()


def test_bad_values_are_named_at_once() -> None:
    pattern = r"(?s)train_batch_size: 0.*seed: -1.*num_epochs.*per_device_parallelism: 0.*id: 'a/b'"
    with pytest.raises(UserError, match=pattern):
        TrainerConfig(train_batch_size=0, seed=-1, num_epochs=1, num_train_steps=1, per_device_parallelism=0, id="a/b")


def test_a_batch_that_does_not_divide_is_refused_with_what_would() -> None:
    with pytest.raises(UserError, match="microbatches of 3 rows"):
        _ = TrainerConfig(train_batch_size=8, per_device_parallelism=3).device_mesh
    with pytest.raises(UserError, match="model_axis_size: 7 does not divide"):
        _ = TrainerConfig(model_axis_size=7).device_mesh
