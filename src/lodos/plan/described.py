"""Devices that are not there, as the compiler of libtpu describes them.

libtpu looks for a TPU when it is loaded, and asks Google's metadata server about it. `ENVIRONMENT` tells it that there
is none; it has to be set before JAX is imported.
"""

from importlib.util import find_spec
from typing import Any

from lodos.errors import UserError
from lodos.plan.accelerators import TpuSlice
from lodos.target import Target

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # without a device it cannot read what it has written
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def check_compiler(wanted: TpuSlice) -> None:
    """Raises a `UserError` where the compiler of these devices is not installed."""
    if find_spec("libtpu") is None:
        raise UserError(
            f"target: {wanted.name} is compiled for by libtpu, which is not installed. Install the extra plan: "
            "pip install 'lodos[plan]'."
        )


def described_target(wanted: TpuSlice) -> Target:
    """The devices of a slice, for which programs can be compiled and not run.

    Raises:
        UserError: when libtpu is not installed, or does not know such a slice.
    """
    from jax.experimental import topologies

    check_compiler(wanted)
    settings: dict[str, Any] = {}
    if wanted.chips == 1:
        settings["chips_per_host_bounds"] = (1, 1, 1)
    if wanted.generation.chip_config_name is not None:
        settings["chip_config_name"] = wanted.generation.chip_config_name
    try:
        topology = topologies.get_topology_desc(wanted.topology_name, "tpu", **settings)
    except Exception as error:
        raise UserError(f"target: {wanted.name}: libtpu refuses it: {str(error).splitlines()[0]}") from None
    return Target(topology.devices, wanted.generation.memory_bytes)
