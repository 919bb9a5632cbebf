"""What is compiled for is told by the devices, those here or those described."""

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

import lodos.target
from devices import described
from lodos.target import Target, compiling_for, target


def test_it_is_the_devices_here_unless_others_are_described() -> None:
    here = target()
    assert (here.platform, here.device_count, here.process_count) == (jax.default_backend(), jax.device_count(), 1)
    other = described("tpu")
    with compiling_for(other):
        assert target() is other
        with compiling_for(described("gpu")):
            assert target().platform == "gpu"
        assert target() is other
    assert target().platform == here.platform


def test_an_error_within_ends_the_description() -> None:
    with pytest.raises(ZeroDivisionError), compiling_for(described("tpu")):
        raise ZeroDivisionError
    assert target().platform == jax.default_backend()


@pytest.mark.parametrize(
    ("platform", "kind", "generation"),
    [("tpu", "TPU v3", 3), ("tpu", "TPU v5 lite", 5), ("tpu", "TPU v6 lite", 6), ("gpu", "NVIDIA H100", None)],
)
def test_a_tpus_generation_is_in_its_name(platform: str, kind: str, generation: int | None) -> None:
    assert described(platform, device_kind=kind).tpu_generation == generation


@pytest.mark.parametrize(("capability", "expected"), [("9.0", (9, 0)), ("10.3", (10, 3)), ("gfx90a", None), ("", None)])
def test_only_nvidias_have_a_compute_capability(capability: str, expected: tuple[int, int] | None) -> None:
    assert described("cuda", compute_capability=capability).compute_capability == expected
    assert described("cuda").platform == "gpu"


def test_processes_are_counted_by_their_devices() -> None:
    devices = [SimpleNamespace(platform="tpu", device_kind="TPU v4", process_index=i // 4) for i in range(16)]
    assert (Target(devices).device_count, Target(devices).process_count) == (16, 4)


def test_nothing_else_asks_jax_what_devices_there_are() -> None:
    """`jax.default_backend()` and its like tell what happens to be at hand, not what is compiled for."""
    asking = re.compile(r"jax\.(default_backend|devices|local_devices|device_count|local_device_count)\(")
    source = Path(lodos.target.__file__).parent
    asked = {path.name for path in source.rglob("*.py") for line in _code(path) if asking.search(line)}
    assert asked == {"target.py"}


def _code(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if "`jax." not in line]
