"""n devices compute what one computes, and hold only their share.

This file is also a script: run with the number of devices and a folder, it trains a tiny model in each layout and
writes losses, factors and shard shapes.
"""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from devices import run_with_devices
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import loraize
from lodos.models.decoder import LmHeadModel
from lodos.sharding import DeviceMesh, constrain, partition_spec, partition_specs
from lodos.train.config import TrainerConfig
from lodos.train.mesh import MeshConfig
from lodos.train.optim import OptimizerConfig
from lodos.train.trainer import Trainer
from lodos.tree import named_leaves
from tiny_training import compute_loss, make_batch, tiny_config

STEPS = 3
ROWS = 16
DROPOUT = 0.2
LAYOUTS: dict[str, dict[str, Any]] = {
    "data parallel": dict(fsdp_axis=None),
    "fsdp": dict(fsdp_axis="embed"),
    "fsdp x tensor parallel": dict(
        fsdp_axis="embed", model_axis_size=4, tensor_parallel_axes=("mlp", "heads", "kv_heads", "vocab")
    ),
    "accumulated": dict(fsdp_axis="embed", per_device_parallelism=1),
    "stored over two axes": dict(
        model_axis_size=2,
        mesh=MeshConfig(
            parameters={"embed": ["data", "model"], **dict.fromkeys(("mlp", "heads", "kv_heads"))},
            compute={"vocab": "model"},
        ),
    ),
    "replicas": dict(model_axis_size=2, mesh=MeshConfig(axes={"replica_dcn": 2, "data": -1})),
}


def model(dropout: float) -> LmHeadModel:
    """Every axis that may be split is divisible by 4, the embed axis by 8."""
    config = tiny_config(num_key_value_heads=4)
    base = LmHeadModel.init(config, key=jax.random.key(0))
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head", "embed_tokens"]
    lora = LoraConfig(
        targets,
        r=4,
        dropout=dropout,
        rank_pattern={"layers.1.mlp.up_proj": 2, "lm_head": 3},
        alpha_pattern={"layers.0.self_attn.o_proj": 3.0},
    )
    return loraize(base, lora, key=jax.random.key(1))


def train(folder: Path, name: str, dropout: float, **config: Any) -> None:
    """Trains, and writes what came of it to `<folder>/<name>.npz` and `.json`."""
    start = model(dropout)
    config = {"train_batch_size": ROWS, "run_dir": str(folder), "load_checkpoint": False, **config}
    # Where a gradient is near zero, Adam's usual epsilon of 1e-8 makes a whole step of its rounding error.
    optimizer = OptimizerConfig(learning_rate=0.1, epsilon=1e-3, warmup=0, max_grad_norm=0.1).build(STEPS)
    trainer = Trainer(TrainerConfig(**config), optimizer, compute_loss, lora_trainable_params_filter(start))
    compiled = steps_compiled()
    shapes = eqx.filter_eval_shape(model, dropout)
    trainer.compile_ahead(jax.random.key(2), model=shapes, batch=make_batch(0, rows=ROWS))
    trainer.wait_until_compiled()
    assert len(compiled) == 1
    state = trainer.initial_state(jax.random.key(2), model=start)
    losses, norms = [], []
    for step in range(STEPS):
        state, metrics = trainer.train_step(state, make_batch(step, rows=ROWS))
        losses.append(metrics.loss)
        norms.append(metrics.grad_norm)
    evaluated = trainer.evaluate(state.model, [make_batch(9, rows=3)])  # rows that do not divide stay whole
    factors = {name: leaf for name, leaf in arrays(state.model).items() if ".lora_" in name}
    numbers: dict[str, Any] = dict(losses=losses, norms=norms, evaluated=evaluated, **factors)
    np.savez(folder / f"{name}.npz", **numbers)
    written: dict[str, Any] = {
        kind: {name: [leaf.shape, leaf.addressable_shards[0].data.shape] for name, leaf in arrays(tree).items()}
        for kind, tree in (("model", state.model), ("optimizer", state.opt_state))
    }
    written["compiled"] = len(compiled)
    (folder / f"{name}.json").write_text(json.dumps(written), encoding="utf-8")


def steps_compiled() -> list[str]:
    """Grows with each training step that is compiled from now on, in whichever thread."""
    compiled = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event.endswith("backend_compile_duration") and kwargs.get("fun_name") == "jit(_train_step)":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return compiled


def arrays(tree: Any) -> dict[str, jax.Array]:
    return {name: leaf for name, leaf in named_leaves(tree).items() if isinstance(leaf, jax.Array)}


def main(devices: int, folder: Path) -> None:
    assert jax.device_count() == devices
    if devices == 1:
        train(folder, "with dropout", DROPOUT)
        train(folder, "without dropout", 0.0)
        return
    for name, config in LAYOUTS.items():
        train(folder, name, DROPOUT, **config)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each layout came to, `(arrays, shapes)` by name."""
    folder = tmp_path_factory.mktemp("sharding")
    for devices in (1, 8):
        run_with_devices(devices, __file__, str(devices), folder)
    return {
        file.stem: (dict(np.load(file)), json.loads(file.with_suffix(".json").read_text(encoding="utf-8")))
        for file in folder.glob("*.npz")
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_eight_devices_have_the_losses_of_one(layout: str, runs: dict[str, Any]) -> None:
    found, expected = runs[layout][0], runs["with dropout"][0]
    for name in ("losses", "norms", "evaluated"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_eight_devices_have_the_factors_of_one(layout: str, runs: dict[str, Any]) -> None:
    found, expected = runs[layout][0], runs["with dropout"][0]
    factors = [name for name in expected if "lora_" in name]
    assert len(factors) == 2 * 9
    for name in factors:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())


@pytest.mark.parametrize("layout", ["with dropout", *LAYOUTS])
def test_the_step_that_was_compiled_ahead_is_the_one_that_runs(layout: str, runs: dict[str, Any]) -> None:
    assert runs[layout][1]["compiled"] == 1


def test_the_comparison_would_notice_another_loss(runs: dict[str, Any]) -> None:
    with_dropout, without = runs["with dropout"][0], runs["without dropout"][0]
    assert np.abs(with_dropout["losses"][1:] / without["losses"][1:] - 1).max() > 1e-4


def layer_shapes(runs: dict[str, Any], layout: str, kind: str = "model") -> dict[str, tuple[list[int], list[int]]]:
    """The whole shape and that of one device's share, of the leaves of the first MLP and attention projections."""
    shapes = runs[layout][1][kind]
    return {
        name.split("layers.*.")[-1]: (whole, share) for name, (whole, share) in shapes.items() if "layers.*." in name
    }


def test_data_parallel_devices_hold_everything(runs: dict[str, Any]) -> None:
    for kind in ("model", "optimizer"):
        assert all(whole == share for whole, share in runs["data parallel"][1][kind].values())


def test_fsdp_devices_hold_an_eighth_along_embed(runs: dict[str, Any]) -> None:
    shapes = layer_shapes(runs, "fsdp")
    assert shapes["self_attn.q_proj.base_layer.weight"] == ([2, 32, 32], [2, 32, 4])
    assert shapes["mlp.gate_proj.base_layer.weight"] == ([2, 48, 32], [2, 48, 4])
    assert shapes["mlp.down_proj.base_layer.weight"] == ([2, 32, 48], [2, 4, 48])
    assert shapes["self_attn.q_proj.lora_A"] == ([2, 4, 32], [2, 4, 4])
    assert shapes["self_attn.q_proj.lora_B"] == ([2, 32, 4], [2, 32, 4])  # has no embed axis
    assert runs["fsdp"][1]["model"]["model.embed_tokens.base_layer.weight"] == [[64, 32], [64, 4]]
    assert runs["fsdp"][1]["model"]["model.embed_tokens.lora_embedding_B"] == [[32, 4], [4, 4]]


def test_fsdp_shards_the_optimizers_moments_like_the_factors(runs: dict[str, Any]) -> None:
    moments = runs["fsdp"][1]["optimizer"]
    found = [share for name, (_, share) in moments.items() if name.endswith("q_proj.lora_A")]
    assert found == [[2, 4, 4], [2, 4, 4]]


def test_tensor_parallel_devices_hold_their_part_of_both_axes(runs: dict[str, Any]) -> None:
    shapes = layer_shapes(runs, "fsdp x tensor parallel")
    assert shapes["self_attn.q_proj.base_layer.weight"] == ([2, 32, 32], [2, 8, 16])
    assert shapes["self_attn.k_proj.base_layer.weight"] == ([2, 32, 32], [2, 8, 16])
    assert shapes["mlp.down_proj.base_layer.weight"] == ([2, 32, 48], [2, 16, 12])
    assert shapes["mlp.gate_proj.lora_B"] == ([2, 48, 4], [2, 12, 4])
    assert runs["fsdp x tensor parallel"][1]["model"]["model.embed_tokens.base_layer.weight"] == [[64, 32], [16, 16]]
    assert runs["fsdp x tensor parallel"][1]["model"]["model.embed_tokens.lora_embedding_A"] == [[4, 64], [4, 16]]


def test_parameters_over_two_axes_are_in_a_share_for_each_device(runs: dict[str, Any]) -> None:
    shapes = layer_shapes(runs, "stored over two axes")
    assert shapes["self_attn.q_proj.base_layer.weight"] == ([2, 32, 32], [2, 32, 4])
    assert shapes["mlp.down_proj.base_layer.weight"] == ([2, 32, 48], [2, 4, 48])
    assert shapes["self_attn.q_proj.lora_A"] == ([2, 4, 32], [2, 4, 4])


def test_each_replica_holds_everything(runs: dict[str, Any]) -> None:
    """In shards over its two rows of two devices each."""
    shapes = layer_shapes(runs, "replicas")
    assert shapes["self_attn.q_proj.base_layer.weight"] == ([2, 32, 32], [2, 16, 16])
    assert shapes["mlp.down_proj.base_layer.weight"] == ([2, 32, 48], [2, 16, 24])


def test_a_mesh_is_entered_in_several_threads_at_once() -> None:
    device_mesh = TrainerConfig().device_mesh
    inside, leave = threading.Event(), threading.Event()

    def enter() -> tuple[bool, bool]:
        with device_mesh:
            inside.set()
            assert leave.wait(timeout=60)
            entered = not jax.sharding.get_mesh().empty
        return entered, jax.sharding.get_mesh().empty

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(enter)
        assert inside.wait(timeout=60)
        assert jax.sharding.get_mesh().empty
        with device_mesh:
            pass
        leave.set()
        assert other.result() == (True, True)


@pytest.fixture
def mesh_4x2() -> Any:
    """A mesh of eight devices that need not exist: specs depend on its shape alone."""
    mesh = AbstractMesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.sharding.use_abstract_mesh(mesh):
        yield


@pytest.mark.parametrize(
    ("names", "shape", "mapping", "expected"),
    [
        (("mlp", "embed"), (48, 32), {"embed": "data"}, (None, "data")),
        (("mlp", "embed"), (48, 32), {"embed": "data", "mlp": "model"}, ("model", "data")),
        (("mlp", "embed"), (48, 30), {"embed": "data", "mlp": "model"}, ("model", None)),  # 4 does not divide 30
        (("mlp", "embed"), (2, 2), {"embed": "data", "mlp": "model"}, ("model", None)),  # nor 2
        (("heads", "embed"), (8, 8), {"embed": "data", "heads": "data"}, ("data", None)),  # the first takes it
        (("heads", "embed"), (7, 8), {"embed": "data", "heads": "data"}, (None, "data")),  # unless it cannot
        (("embed",), (16,), {"embed": ("data", "model")}, (("data", "model"),)),
        (("embed",), (12,), {"embed": ("data", "model")}, (None,)),  # 8 does not divide 12
        (("mlp", "embed"), (8, 8), {"embed": ("data", "model"), "mlp": "model"}, ("model", None)),
        ((None, "embed"), (8, 8), {"embed": "model"}, (None, "model")),
        (("mlp", "embed"), (8, 8), {"embed": None}, (None, None)),
        (("mlp", "embed"), (8, 8), {"embed": "elsewhere"}, (None, None)),  # no such mesh axis
        ((), (), {"embed": "data"}, ()),
    ],
)
def test_an_axis_is_split_if_its_mesh_axis_divides_it_and_is_free(
    names: Any, shape: Any, mapping: Any, expected: Any, mesh_4x2: Any
) -> None:
    assert partition_spec(names, shape, mapping) == PartitionSpec(*expected)


def test_without_a_mesh_everything_is_whole() -> None:
    assert partition_spec(("mlp", "embed"), (8, 8), {"embed": "data"}) == PartitionSpec(None, None)


def test_a_name_too_few_or_too_many_is_an_error(mesh_4x2: Any) -> None:
    with pytest.raises(ValueError, match="zip"):
        partition_spec(("mlp", "embed"), (8, 8, 8), {})


def test_stacked_layers_are_split_like_single_ones(mesh_4x2: Any) -> None:
    specs = named_leaves(
        partition_specs(model(0.0), {"embed": "data", "mlp": "model"}), lambda node: isinstance(node, PartitionSpec)
    )
    assert specs["model.layers.*.mlp.gate_proj.base_layer.weight"] == PartitionSpec(None, "model", "data")
    assert specs["model.layers.*.mlp.gate_proj.lora_A"] == PartitionSpec(None, None, "data")
    assert specs["model.embed_tokens.base_layer.weight"] == PartitionSpec(None, "data")


def test_outside_a_mapping_activations_are_left_alone() -> None:
    x = jax.numpy.ones((4, 2))
    assert constrain(x, "tokens", None) is x


def test_a_mesh_may_be_entered_within_itself() -> None:
    mesh = DeviceMesh(jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2))
    with mesh:
        with mesh:
            pass
        assert jax.sharding.get_abstract_mesh().shape == {"data": 1, "model": 1}
    assert not jax.sharding.get_abstract_mesh().shape


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
