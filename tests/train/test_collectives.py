"""What travels between eight devices in a training step, read from the compiled program.

This file is also a script, which compiles the step of each layout and writes down its collective operations.
"""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from devices import Collective, collectives, run_with_devices
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import loraize
from lodos.models.decoder import LmHeadModel
from lodos.plan.traced import programs_within
from lodos.sharding import partition_specs
from lodos.train.config import TrainerConfig
from lodos.train.optim import OptimizerConfig
from lodos.train.placement import batch_shapes, state_shapes
from lodos.train.trainer import Trainer
from lodos.tree import named_leaves
from tiny_training import compute_loss, make_batch, tiny_config

LAYOUTS: dict[str, dict[str, Any]] = {
    "data parallel": dict(fsdp_axis=None),
    "fsdp": dict(fsdp_axis="embed"),
    "full checkpointing": dict(fsdp_axis="embed"),
    "no checkpointing": dict(fsdp_axis="embed"),
    "tensor parallel": dict(fsdp_axis="embed", model_axis_size=4),
}
BATCH_ALONE = [layout for layout in LAYOUTS if layout != "tensor parallel"]
CHECKPOINTING = {"full checkpointing": "full", "no checkpointing": "none"}
ROWS = 16
"""Microbatches of a row on each device, two of them or, where four devices share a row, eight."""
LENGTH, WIDTH, R = 10, 32, 4


def model(layout: str = "fsdp") -> LmHeadModel:
    policy: Any = CHECKPOINTING.get(layout, "dots")
    config = tiny_config(hidden_size=WIDTH, num_key_value_heads=4)
    base = LmHeadModel.init(config, gradient_checkpointing=policy, key=jax.random.key(0))
    return loraize(base, LoraConfig(r=R, dropout=0.1), key=jax.random.key(1))


def traced_step(folder: Path, layout: str, mp: str = "f32") -> jax.stages.Traced:
    config = TrainerConfig(
        id="run",
        run_dir=str(folder),
        train_batch_size=ROWS,
        per_device_parallelism=1,
        num_train_steps=1,
        mp=mp,
        **LAYOUTS[layout],
    )
    shapes = eqx.filter_eval_shape(model, layout)
    optimizer = OptimizerConfig().build(1)
    trainer = Trainer(config, optimizer, compute_loss, lora_trainable_params_filter(shapes))
    state = state_shapes(jax.random.key(0), shapes, trainer.is_trainable, optimizer, config)
    with config.device_mesh:
        return trainer.trace(state, batch_shapes(make_batch(0, rows=ROWS, length=LENGTH), config))


def sums(jaxpr: Any, loops: int = 0) -> Iterator[Collective]:
    """What a traced program adds up over devices."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("psum", "psum_invariant"):
            shapes = [out.aval.str_short().replace("float", "f") for out in equation.outvars]
            yield Collective("all-reduce", tuple(shapes), loops)
        for nested in programs_within(equation):
            yield from sums(nested, loops + (equation.primitive.name == "scan"))


def main(folder: Path) -> None:
    assert jax.device_count() == 8
    found: dict[str, Any] = {}
    for layout in LAYOUTS:
        program = traced_step(folder, layout).lower().compile().as_text() or ""
        found[layout] = [dataclasses.asdict(one) for one in collectives(program)]
    in_16_bits = traced_step(folder, "fsdp", "p=f32,c=bfloat16")
    found["16 bits"] = [dataclasses.asdict(one) for one in sums(in_16_bits.jaxpr.jaxpr)]
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Collective]]:
    folder = tmp_path_factory.mktemp("collectives")
    run_with_devices(8, __file__, folder)
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return {
        layout: [Collective(one["kind"], tuple(one["shapes"]), one["loops"]) for one in steps]
        for layout, steps in found.items()
    }


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    """Of every parameter, by name."""
    return {name: leaf.shape for name, leaf in named_leaves(eqx.filter_eval_shape(model)).items()}


def arrays(steps: list[Collective], kind: str, *, loops: int) -> Counter[str]:
    """What operations of a kind, in so many loops, give: all but single numbers."""
    found = [one for one in steps if one.kind == kind and one.loops == loops]
    return Counter(shape for one in found for shape in one.shapes if not shape.endswith("[]"))


def written(shapes: list[tuple[int, ...]]) -> Counter[str]:
    return Counter(f"f32[{','.join(map(str, shape))}]" for shape in shapes)


def factors(shapes: dict[str, tuple[int, ...]]) -> Counter[str]:
    return written([shape for name, shape in shapes.items() if "lora_" in name])


def sharded_factors() -> Counter[str]:
    """Those with an axis that is stored in shards."""
    mesh = AbstractMesh((8, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    structure = eqx.filter_eval_shape(model)
    with jax.sharding.use_abstract_mesh(mesh):
        specs = named_leaves(
            partition_specs(structure, {"embed": "data"}), lambda node: isinstance(node, PartitionSpec)
        )
    shapes = {name: leaf.shape for name, leaf in named_leaves(structure).items()}
    return written([shapes[name] for name, spec in specs.items() if "lora_" in name and "data" in spec])


@pytest.mark.parametrize("layout", BATCH_ALONE)
def test_each_gradient_is_reduced_once_a_step(
    layout: str, steps: dict[str, list[Collective]], shapes: dict[str, tuple[int, ...]]
) -> None:
    assert arrays(steps[layout], "all-reduce", loops=0) == factors(shapes)


def test_gradients_of_a_base_in_16_bits_are_added_up_in_32_once_a_step(
    steps: dict[str, list[Collective]], shapes: dict[str, tuple[int, ...]]
) -> None:
    """As the program is written: a CPU's compiler would make 32 bits of 16."""
    assert {one.loops for one in steps["16 bits"]} == {0}
    assert arrays(steps["16 bits"], "all-reduce", loops=0) == factors(shapes)


def test_data_parallel_devices_exchange_nothing_else(steps: dict[str, list[Collective]]) -> None:
    assert {(one.kind, one.loops) for one in steps["data parallel"]} == {("all-reduce", 0)}


@pytest.mark.parametrize("layout", BATCH_ALONE[1:])
def test_fsdp_gathers_the_base_layer_by_layer_and_exchanges_nothing_else(
    layout: str, steps: dict[str, list[Collective]], shapes: dict[str, tuple[int, ...]]
) -> None:
    assert {(one.kind, one.loops) for one in steps[layout]} == {("all-reduce", 0), ("all-gather", 0), ("all-gather", 2)}
    base = {name: shape for name, shape in shapes.items() if "lora_" not in name}
    # In the loop over layers within that over microbatches: one layer, on the way forward and again backward.
    of_a_layer = written([shape[1:] for name, shape in base.items() if "*" in name])
    # Where nothing is recomputed, the way back needs no norm's weight: its product was kept.
    again = written([shape[1:] for name, shape in base.items() if "*" in name and "norm" not in name])
    again = again if layout == "no checkpointing" else of_a_layer
    assert arrays(steps[layout], "all-gather", loops=2) == of_a_layer + again
    # Once a step: what is not in layers, and the factors.
    others = written([shape for name, shape in base.items() if "*" not in name])
    assert arrays(steps[layout], "all-gather", loops=0) == others + sharded_factors()


def test_split_layers_add_up_the_hidden_states_of_a_layer_twice_forward_and_twice_back(
    steps: dict[str, list[Collective]],
) -> None:
    """After `o_proj` and `down_proj`; and before q, k and v together, and gate and up. Besides, the gradients of the
    factors that every device has: A of those five, and B of the two."""
    found = arrays(steps["tensor parallel"], "all-reduce", loops=2)
    assert found == written([(LENGTH, WIDTH)] * 4 + [(R, WIDTH)] * 5 + [(WIDTH, R)] * 2)
    assert {one.kind for one in steps["tensor parallel"] if one.loops == 2} == {"all-reduce", "all-gather"}
    gathered = arrays(steps["tensor parallel"], "all-gather", loops=2)
    assert not [shape for shape in gathered if shape.startswith(f"f32[{LENGTH},")]  # weights, and no activations


if __name__ == "__main__":
    main(Path(sys.argv[1]))
