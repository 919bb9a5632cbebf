"""Rows whose tokens are split over devices: the mesh axis `sequence`.

This file is also a script, which trains on eight devices and writes down what came of it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from devices import described, run_with_devices
from lodos.errors import UserError
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import loraize
from lodos.models.decoder import LmHeadModel
from lodos.nn.attention.attention import _choose
from lodos.row_parts import first_place
from lodos.target import Target, compiling_for, target
from lodos.train.config import TrainerConfig
from lodos.train.mesh import MeshConfig, mapping_problems
from lodos.train.optim import OptimizerConfig
from lodos.train.placement import batch_shapes, state_shapes
from lodos.train.trainer import Trainer
from lodos.tree import named_leaves
from lodos.types import LmExample
from tiny_training import compute_loss, make_batch, tiny_config

LAYOUTS: dict[str, dict[str, int]] = {
    "sequence": {"sequence": 8},
    "sequence x data": {"sequence": 4, "data": 2},
    "sequence x data x model": {"sequence": 2, "data": 2, "model": 2},
}
LENGTH = 48
"""Of a row: no multiple of an attention block over eight devices."""
KINDS: dict[str, dict[str, Any]] = {
    "unpacked": {},
    "packed": {},
    "windows": dict(sliding_windows=(None, 7), attn_implementation="plain"),
    "unweighted": {},
}
TRAINED = [
    ("unpacked", "sequence"),
    ("packed", "sequence x data"),
    ("packed", "sequence x data x model"),
    ("windows", "sequence x data"),
    ("unweighted", "sequence x data"),
]


def batch(kind: str, seed: int, length: int = LENGTH, rows: int = 4) -> Any:
    """Rows of a kind; unweighted ones are a batch of one's own, with names that nothing but its loss knows."""
    example = make_batch(seed, rows=rows, length=length)
    if kind == "unweighted":
        return {"ids": example.tokens, "next": example.targets}
    if kind == "unpacked":
        return example
    rng = np.random.default_rng(seed)
    ids = np.cumsum(rng.random((rows, length)) < 0.08, axis=1).astype(np.int32) + 1
    ids[:, -3:] = 0
    starts = np.maximum.accumulate(np.where(np.diff(ids, axis=1, prepend=-1) != 0, np.arange(length), 0), axis=1)
    positions = np.where(ids > 0, np.arange(length) - starts, 0).astype(np.int32)
    weights = ((rng.random((rows, length)) < 0.5) & (ids > 0)).astype(np.float32)
    fields: Any = (weights, ids, positions)
    return LmExample(example.tokens, example.targets, *fields)


def model(kind: str, **shape: int) -> LmHeadModel:
    options = {**KINDS[kind], **shape}
    attention = options.pop("attn_implementation", "auto")
    base = LmHeadModel.init(tiny_config(**options), attn_implementation=attention, key=jax.random.key(0))
    config = LoraConfig(r=4, dropout=0.3, target_modules=["q_proj", "v_proj", "down_proj", "lm_head"])
    return loraize(base, config, key=jax.random.key(1))


def loss_of_any(model: Any, batch: Any, key: Any = None) -> Any:
    if isinstance(batch, dict):
        tokens, ones = batch["ids"], jnp.ones_like(batch["ids"])
        places = first_place(tokens.shape[1]) + jnp.arange(tokens.shape[1]) * ones
        batch = LmExample(tokens, batch["next"], ones.astype(jnp.float32), ones, places)
    return compute_loss(model, batch, key=key)


def trainer_of(folder: Path, structure: Any, axes: dict[str, int], rows: int = 4) -> tuple[Trainer, Any]:
    config = TrainerConfig(
        id="run",
        run_dir=str(folder),
        train_batch_size=rows,
        per_device_parallelism=1 if axes.get("data", 1) > 1 else 2,
        num_train_steps=3,
        mesh=MeshConfig(axes=axes, parameters={"embed": ["data", "sequence"]} if "data" in axes else {}),
    )
    optimizer = OptimizerConfig(learning_rate=1e-2).build(3)
    return Trainer(config, optimizer, loss_of_any, lora_trainable_params_filter(structure)), optimizer


def course(folder: Path, kind: str, axes: dict[str, int]) -> dict[str, Any]:
    lora = model(kind)
    trainer, _ = trainer_of(folder, lora, axes)
    with trainer.config.device_mesh:
        state = trainer.initial_state(jax.random.key(2), model=lora)
        numbers = []
        for step in range(3):
            state, metrics = trainer.train_step(state, batch(kind, step))
            numbers.append([float(metrics.loss), float(metrics.grad_norm)])
        trained = {name: np.asarray(leaf).tolist() for name, leaf in named_leaves(state.trainable).items()}
    return {"numbers": numbers, "trained": trained}


def temporaries(folder: Path, axes: dict[str, int]) -> int:
    """Bytes that a device needs to compute a step on long rows."""
    shapes = eqx.filter_eval_shape(lambda: model("packed", hidden_size=128, intermediate_size=512))
    trainer, optimizer = trainer_of(folder, shapes, axes, rows=2)
    state = state_shapes(jax.random.key(0), shapes, trainer.is_trainable, optimizer, trainer.config)
    with trainer.config.device_mesh:
        lowered = trainer.trace(state, batch_shapes(batch("packed", 0, length=8192, rows=2), trainer.config)).lower()
        memory: Any = lowered.compile().memory_analysis()
        return memory.temp_size_in_bytes


def main(folder: Path) -> None:
    assert jax.device_count() == 8
    devices = list(target().devices)
    found: dict[str, Any] = {}
    for kind in KINDS:
        with compiling_for(Target(devices[:1])):
            found[kind] = {"one": course(folder, kind, {})}
    for kind, layout in TRAINED:
        found[kind][layout] = course(folder, kind, LAYOUTS[layout])
    memory = {}
    for parts in (1, 4):
        with compiling_for(Target(devices[:parts])):
            memory[parts] = temporaries(folder, {"sequence": parts})
    found["memory"] = memory
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sequence")
    run_with_devices(8, __file__, folder)
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_rows_train_as_whole_rows_on_one_device(kind: str, found: dict[str, Any]) -> None:
    one, *others = found[kind].values()
    assert others
    for other in others:
        np.testing.assert_allclose(other["numbers"], one["numbers"], rtol=1e-5)
        for name, value in one["trained"].items():
            np.testing.assert_allclose(other["trained"][name], value, rtol=0, atol=1e-5, err_msg=name)


def test_a_device_needs_memory_for_its_part_of_the_row(found: dict[str, Any]) -> None:
    assert found["memory"]["4"] < 0.4 * found["memory"]["1"]


def test_rows_that_the_axis_does_not_divide_are_refused() -> None:
    with compiling_for(Target([*described("cpu").devices] * 4)):
        config = TrainerConfig(mesh=MeshConfig(axes={"sequence": 4}))
        config.check_lengths([8, 12])
        with pytest.raises(UserError, match=r"sequence 4 does not cut rows of 4, 10 positions.*multiple of 4"):
            config.check_lengths([4, 8, 10])
    TrainerConfig().check_lengths([1, 7])


@pytest.mark.parametrize("implementation", ["splash", "cudnn"])
def test_kernels_that_want_whole_rows_are_refused(implementation: Any) -> None:
    with pytest.raises(UserError, match=f"{implementation} needs whole rows.*4 parts. Use auto"):
        _choose(implementation, jnp.bfloat16, 64, None, parts=4)
    assert _choose("auto", jnp.bfloat16, 64, None, parts=4) == "blockwise"


def test_the_axis_splits_no_layer() -> None:
    config = MeshConfig(compute={"mlp": "sequence"}, parameters={"embed": "sequence"})
    assert mapping_problems(config, {"sequence": 2, "data": 1}) == [
        "mesh.compute: mlp: sequence splits the tokens of rows and nothing else. Name another axis."
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
