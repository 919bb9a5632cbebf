"""The names under which slices are rented."""

import pytest

from lodos.errors import UserError
from lodos.plan.accelerators import SLICES, TpuSlice, accelerators_of


@pytest.mark.parametrize(
    ("name", "topology", "devices"),
    [
        ("v3-32", "v3:4x4", 32),
        ("v4-32", "v4:2x2x4", 16),
        ("v5e-16", "v5e:4x4", 16),
        ("v5litepod-16", "v5e:4x4", 16),
        ("v5p-8", "v5p:2x2x1", 4),
        ("TPU v6e-8", "v6e:2x4", 8),
    ],
)
def test_a_name_is_that_of_chips_in_a_shape(name: str, topology: str, devices: int) -> None:
    found = accelerators_of(name)
    assert isinstance(found, TpuSlice)
    assert found.topology_name == topology
    assert found.chips * found.generation.devices_per_chip == devices


def test_every_name_says_its_own_slice() -> None:
    assert all(accelerators_of(name) is found for name, found in SLICES.items())
    assert all(name.partition("-")[0] in ("v2", "v3", "v4", "v5e", "v5p", "v6e") for name in SLICES)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v3-31", "There are v3-8, v3-32"),
        ("v5-8", "is not known"),
        ("v3_32x", "no such slice of v3"),
        ("h900", "There are v2-8"),
        ("", "is not known"),
    ],
)
def test_a_wrong_name_lists_those_there_are(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        accelerators_of(name)
