"""Rows and heads shared out among eight devices have the attention that one device gives them, and none travels.

The file is also a script, which writes what it finds with eight devices as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding

from attention_reference import Attended, assert_close, first_of, in_float64, make_arrays, make_segments
from devices import run_with_devices, travelling
from lodos.nn.attention import blockwise
from lodos.nn.attention.attention import attention
from lodos.nn.attention.segments import segment_starts
from lodos.sharding import compute_axis_mapping, partition_spec

BATCH, LENGTH = 8, 40
SEGMENTS = make_segments(LENGTH, *([3, 5 + row, 7, 20 - row] for row in range(BATCH - 2)), [LENGTH], [])
CASES: dict[str, dict[str, Any]] = {
    "batch": dict(mapping={"batch": "data"}, mesh=(8, 1), heads=(4, 2)),
    "heads": dict(mapping={"heads": "model"}, mesh=(1, 8), heads=(16, 8)),
    "batch and heads": dict(mapping={"batch": "data", "heads": "model"}, mesh=(4, 2), heads=(4, 2)),
    # Two heads of keys cannot be shared by four devices, nor can the query heads that read them.
    "more devices than heads of keys": dict(mapping={"batch": "data", "heads": "model"}, mesh=(2, 4), heads=(4, 2)),
}
WINDOW, NAMES = 9, ("batch", None, "heads", None)


def compute(case: str) -> tuple[str, list[str]]:
    """What is wrong with the result (`ok` if nothing), and what travels between the devices."""
    mapping, shape, heads = (CASES[case][name] for name in ("mapping", "mesh", "heads"))
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    arrays = make_arrays(BATCH, LENGTH, *heads)

    def run(q: Any, k: Any, v: Any, starts: Any, d_out: Any) -> Any:
        with compute_axis_mapping(mapping):
            out, pull_back = jax.vjp(lambda q, k, v: attention(q, k, v, starts, WINDOW), q, k, v)
            return out, *pull_back(d_out)

    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, NamedSharding(mesh, partition_spec(NAMES, x.shape, mapping))) for x in arrays]
        starts = segment_starts(jnp.asarray(SEGMENTS))
        starts = jax.device_put(starts, NamedSharding(mesh, partition_spec(NAMES[:2], starts.shape, mapping)))
        q, k, v, d_out = placed
        layout = [x.sharding for x in (q, q, k, v)]
        compiled = jax.jit(run, out_shardings=tuple(layout)).lower(q, k, v, starts, d_out).compile()
        found = compiled(q, k, v, starts, d_out)
    expected = in_float64(*arrays[:3], first_of(SEGMENTS, WINDOW), arrays[3])
    try:
        assert_close(Attended(*found), expected, 2e-6)
    except AssertionError as error:
        return str(error), travelling(compiled.as_text())
    return "ok", travelling(compiled.as_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("attention") / "results.json"
    run_with_devices(8, __file__, file)
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_eight_devices_compute_the_formula(case: str, results: dict[str, Any]) -> None:
    assert results[case][0] == "ok"


@pytest.mark.parametrize("case", ["batch", "heads", "batch and heads"])
def test_nothing_travels(case: str, results: dict[str, Any]) -> None:
    assert results[case][1] == []


def main(file: Path) -> None:
    assert jax.device_count() == 8
    blockwise.BLOCK = 16
    file.write_text(json.dumps({case: compute(case) for case in CASES}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
