"""Rows of arrays that are spread over eight devices are those of the array, however it is spread.

This file is also a script: run with a folder, it gathers on eight devices and writes what differs.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from devices import run_with_devices
from lodos.gathering import _sent, gathered, gathered_rows

SHAPE = (4, 8, 16)
"""Layers, rows and columns."""
SPECS = [
    (),
    (None, "data"),
    (None, None, "data"),
    ("data",),
    ("replica", "data"),
    (None, ("data", "replica")),
    (None, ("replica", "data")),
    (None, "replica", "data"),
    ("replica", None, "data"),
]
DTYPES = [jnp.float32, jnp.bfloat16, np.float16, np.int8, np.uint32]
ROWS = [slice(0, 8), slice(0, 3), slice(3, 8), slice(5, 6)]


def numbers(dtype: Any, *shape: int) -> np.ndarray:
    """Each of them once, and some that are not equal to themselves or to others of other bits."""
    found = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        found.flat[2:6] = [np.nan, np.inf, -0.0, 0.0]
    return found


def spread(array: np.ndarray, *spec: Any) -> jax.Array:
    mesh = jax.make_mesh((2, 4), ("replica", "data"))
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))


def of_stacks() -> dict[str, bool]:
    """Whether the bits are the same, for each way to spread a stack and to ask for rows of it."""
    same = {}
    for dtype, spec in itertools.product(DTYPES, SPECS):
        array = numbers(dtype, *SHAPE)
        of_devices = spread(array, *spec)
        for index, rows in itertools.product(range(SHAPE[0]), ROWS):
            found = gathered_rows(of_devices, index, (rows,))
            is_same = (found.dtype, found.tobytes()) == (array.dtype, array[index][rows].tobytes())
            same[f"{np.dtype(dtype)} {spec} {index} {rows}"] = is_same
    return same


def of_others() -> dict[str, bool]:
    same = {}
    for shape, spec in itertools.product([(8, 16), (16,)], [(), ("data",), (("data", "replica"),)]):
        array = numbers(np.float32, *shape)
        of_devices = spread(array, *spec)
        for rows in (slice(0, shape[0]), slice(1, 7)):
            found = gathered_rows(of_devices, None, (rows,))
            same[f"{shape} {spec} {rows}"] = found.tobytes() == array[rows].tobytes()
        same[f"{shape} {spec} whole"] = gathered(of_devices).tobytes() == array.tobytes()
    return same


def room_for_rows() -> tuple[int, int]:
    """The bytes that a device makes room for to have 8 rows of an array split by rows, and those of the rows."""
    array = spread(np.zeros((64, 4096), np.float32), "data")
    lowered = _sent.lower(array, 0, 0, size=8, is_stacked=False, layout=array.sharding)
    memory = lowered.compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes, 8 * 4096 * 4


def main(folder: Path) -> None:
    found = {"stacks": of_stacks(), "others": of_others(), "room": room_for_rows()}
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("gathering")
    run_with_devices(8, __file__, folder)
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


def test_rows_of_a_layer(found: dict[str, Any]) -> None:
    assert len(found["stacks"]) == len(DTYPES) * len(SPECS) * SHAPE[0] * len(ROWS)
    assert [case for case, is_same in found["stacks"].items() if not is_same] == []


def test_what_is_no_stack(found: dict[str, Any]) -> None:
    assert [case for case, is_same in found["others"].items() if not is_same] == []


def test_a_device_makes_room_for_the_rows_alone(found: dict[str, Any]) -> None:
    taken, rows = found["room"]
    assert taken <= 3 * rows


def test_on_one_device_and_on_none() -> None:
    array = numbers(np.float32, *SHAPE)
    np.testing.assert_array_equal(gathered_rows(array, 2, (slice(1, 3),)), array[2, 1:3])
    np.testing.assert_array_equal(gathered_rows(jnp.asarray(array), 2, (slice(1, 3),)), array[2, 1:3])
    assert gathered_rows(jnp.float32(3.5), None, ()) == 3.5


if __name__ == "__main__":
    main(Path(sys.argv[1]))
