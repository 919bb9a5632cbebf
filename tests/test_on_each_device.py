"""What XLA does not see into runs on each device, on that device's share.

The file is also a script, which writes what it finds with eight devices.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from devices import run_with_devices
from lodos.sharding import compute_axis_mapping, on_each_device, shard_count

MAPPING = {"batch": "data", "heads": "model", "embed": ("data", "model")}
X = np.arange(8 * 6 * 2, dtype=np.float32).reshape(8, 6, 2)
# The axis names of x, and the shape of a share of it on 4 x 2 devices.
CASES: dict[str, tuple[tuple[str | None, ...], tuple[int, ...]]] = {
    "both": (("batch", "heads", None), (2, 3, 2)),
    "the first": (("batch", None, None), (2, 6, 2)),
    "by both mesh axes": (("embed", None, None), (1, 6, 2)),
    "an axis that its devices do not divide": ((None, "embed", None), (8, 6, 2)),
    "nothing": ((None, None, None), (8, 6, 2)),
    "no such name": (("elsewhere", None, None), (8, 6, 2)),
}


def sums(x: Any, y: Any) -> Any:
    """Different on every share: what a device does not hold it cannot add up."""
    return x * y.sum() + x.sum()


def share_by_share(part: tuple[int, ...], fn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`fn` of each block of `X` of that shape."""
    out = np.zeros_like(X)
    for start in np.ndindex(*(size // length for size, length in zip(X.shape, part, strict=True))):
        block = tuple(slice(i * n, (i + 1) * n) for i, n in zip(start, part, strict=True))
        out[block] = fn(X[block])
    return out


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("devices") / "results.json"
    run_with_devices(8, __file__, file)
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_each_device_computes_its_share(case: str, results: dict[str, Any]) -> None:
    assert np.array_equal(results[case]["out"], share_by_share(CASES[case][1], lambda x: sums(x, x)))


@pytest.mark.parametrize("case", CASES)
def test_gradients_go_back_through_it(case: str, results: dict[str, Any]) -> None:
    """`d/dx sum(x * sum(y) + sum(x))` is `sum(y) + n` for a share of n numbers."""
    expected = share_by_share(CASES[case][1], lambda x: np.full_like(x, x.sum() + x.size))
    assert np.array_equal(results[case]["gradient"], expected)


def test_outside_a_mapping_or_a_mesh_it_is_the_function() -> None:
    run = on_each_device(sums, in_axes=(("batch", None, None),) * 2, out_axes=("batch", None, None))
    assert np.array_equal(run(X, X), sums(X, X))
    with compute_axis_mapping(MAPPING):
        assert np.array_equal(run(X, X), sums(X, X))


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("batch", 8, 4),
        ("batch", 6, 1),  # 4 does not divide 6
        ("heads", 6, 2),
        ("embed", 16, 8),
        ("embed", 12, 1),
        ("elsewhere", 8, 1),
    ],
)
def test_an_axis_is_shared_by_the_devices_that_divide_it(name: str, size: int, expected: int) -> None:
    mesh = AbstractMesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.sharding.use_abstract_mesh(mesh):
        assert shard_count(name, size) == 1  # nothing is, outside a mapping
        with compute_axis_mapping(MAPPING):
            assert shard_count(name, size) == expected
    with compute_axis_mapping(MAPPING):
        assert shard_count(name, size) == 1  # nor without a mesh


def main(file: Path) -> None:
    assert jax.device_count() == 8
    found = {}
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh), compute_axis_mapping(MAPPING):
        for case, (axes, _) in CASES.items():
            run = on_each_device(sums, in_axes=(axes, axes), out_axes=axes)
            out = jax.jit(run)(X, X)
            gradient = jax.jit(jax.grad(lambda x, run=run: run(x, jnp.asarray(X)).sum()))(X)
            found[case] = {"out": np.asarray(out).tolist(), "gradient": np.asarray(gradient).tolist()}
    file.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
