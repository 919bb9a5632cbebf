"""Cards and their hosts, as XLA wants them described."""

import pytest

from lodos.errors import UserError
from lodos.plan.accelerators import accelerators_of
from lodos.plan.gpus import GPUS, HOSTS, GpuHost


@pytest.mark.parametrize(
    ("name", "kind", "cards"),
    [
        ("h100", "NVIDIA H100 80GB HBM3", 1),
        ("H100x8", "NVIDIA H100 80GB HBM3", 8),
        ("a100_80x4", "NVIDIA A100-SXM4-80GB", 4),
        ("nvidia-l4", "NVIDIA L4", 1),
        ("rtx4090x2", "NVIDIA GeForce RTX 4090", 2),
    ],
)
def test_a_name_is_that_of_cards_in_a_host(name: str, kind: str, cards: int) -> None:
    found = accelerators_of(name)
    assert isinstance(found, GpuHost)
    assert (found.gpu.kind, found.count) == (kind, cards)
    assert found.topology_name == f"1x1x{cards}"


def test_every_name_says_its_own_cards() -> None:
    assert all(accelerators_of(name) is found for name, found in HOSTS.items())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("h100x3", "There are h100, h100x2, h100x4, h100x8"),
        ("l4x16", "There are l4, l4x2, l4x4, l4x8"),
        ("a100", "There are a100-40, .*a100-80"),
        ("h100x", "Did you mean h100x"),
        ("h900", "There are v2-8, .* h100, "),
    ],
)
def test_a_wrong_name_lists_those_there_are(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        accelerators_of(name)


def test_figures_are_those_of_cards() -> None:
    """The arithmetic that ties them together: none has a digit too many."""
    for gpu in GPUS.values():
        assert gpu.source
        tensor_operations = gpu.peak_flops / (gpu.cores * gpu.clock_ghz * 1e9)
        assert 500 < tensor_operations < 8500, gpu.name  # of a core in a clock: 1,024, 2,048, 4,096 or 8,192 at best
        assert 50 < gpu.peak_flops / gpu.memory_bandwidth < 500, gpu.name


def test_a_run_has_the_share_of_memory_that_jax_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    host = HOSTS["h100x8"]
    assert host.memory_bytes == int(0.9 * host.gpu.memory_bytes)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")
    assert host.memory_bytes == host.gpu.memory_bytes // 2
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "half")
    with pytest.raises(UserError, match=r"XLA_PYTHON_CLIENT_MEM_FRACTION: 'half'"):
        _ = host.memory_bytes
