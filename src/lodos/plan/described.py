"""Devices that are not there, as the compilers of libtpu and of JAX's CUDA plugin describe them.

libtpu looks for a TPU when it is loaded, and asks Google's metadata server about it. `ENVIRONMENT` tells it that there
is none, and JAX that it is to leave a GPU alone; it has to be set before JAX is imported.
"""

from importlib.util import find_spec
from typing import Any

from lodos.errors import UserError
from lodos.plan.accelerators import Accelerators, TpuSlice
from lodos.plan.gpus import CUDNN, GpuHost
from lodos.target import Target, target

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # without a device it cannot read what it has written
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # libtpu has one process at a time; that is for a TPU, and here is none
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

_PACKAGES = {"plan": ("libtpu",), "cuda": ("jax_cuda13_plugin", "jax_cuda12_plugin")}
"""What an extra brings, one of them."""


def check_compiler(wanted: Accelerators) -> None:
    """Raises a `UserError` where the compiler of these devices is not installed."""
    if all(find_spec(package) is None for package in _PACKAGES[wanted.extra]):
        raise UserError(
            f"target: {wanted.name} is compiled for by {wanted.compiler}, which is not installed. Install the extra "
            f"{wanted.extra}: pip install 'lodos[{wanted.extra}]'."
        )


def described_target(wanted: Accelerators) -> Target:
    """The devices of a slice or a host, for which programs can be compiled and not run.

    Raises:
        UserError: when their compiler is not installed, or does not know them.
    """
    check_compiler(wanted)
    try:
        devices = _gpus(wanted) if isinstance(wanted, GpuHost) else _tpus(wanted)
    except Exception as error:
        raise UserError(f"target: {wanted.name}: {wanted.compiler} refuses it: {str(error).splitlines()[0]}") from None
    return Target(devices, wanted.memory_bytes)


def _tpus(wanted: TpuSlice) -> list[Any]:
    from jax.experimental import topologies

    settings: dict[str, Any] = {}
    if wanted.chips == 1:
        settings["chips_per_host_bounds"] = (1, 1, 1)
    if wanted.generation.chip_config_name is not None:
        settings["chip_config_name"] = wanted.generation.chip_config_name
    return topologies.get_topology_desc(wanted.topology_name, "tpu", **settings).devices


def _gpus(wanted: GpuHost) -> list[Any]:
    from jax.experimental import topologies

    _let_jax_ask_the_target()
    config = wanted.gpu.target_config()
    described = topologies.get_topology_desc(wanted.name, "cuda", topology=wanted.topology_name, target_config=config)
    return described.devices


def _let_jax_ask_the_target() -> None:
    """Before it traces cuDNN's attention, JAX asks this machine's cuDNN and its first GPU what they can do."""
    from jax._src.cudnn import fused_attention_stablehlo

    def numbers(capability: str) -> tuple[int, ...]:
        return tuple(map(int, capability.split(".")))

    major, minor, patch = CUDNN
    answers = {
        "check_cudnn_version": lambda: major * 10000 + minor * 100 + patch,
        "check_compute_capability": lambda least: (target().compute_capability or (0, 0)) >= numbers(least),
        "is_cuda_compute_capability_equal": lambda asked: target().compute_capability == numbers(asked),
    }
    for name, answer in answers.items():
        setattr(fused_attention_stablehlo, name, answer)
