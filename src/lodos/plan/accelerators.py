"""The accelerators that a job can be compiled for without having one, by the names under which clouds rent them.

Here are TPUs; GPUs are described in `gpus.py`. Sources: memory, peak and links from
https://cloud.google.com/tpu/docs/system-architecture-tpu-vm and the pages of each generation; the links of v2 and v3
from Jouppi et al., "A Domain-Specific Supercomputer for Training Deep Neural Networks" (2020), of v4 from Jouppi et
al., "TPU v4" (2023). The number in a slice's name counts TensorCores (v2, v3, v4, v5p) or chips (v5e, v6e).
"""

import dataclasses
import difflib
import re
from collections.abc import Sequence

from lodos.errors import UserError
from lodos.plan.gpus import HOSTS, GpuHost, hosts_of

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class TpuGeneration:
    """What all slices of a generation share."""

    name: str
    cores_in_name: int
    """TensorCores of a chip that the number in a slice's name counts; 1 where it counts chips."""
    devices_per_chip: int
    """Devices that JAX sees of a chip."""
    memory_bytes: int
    """Of each device."""
    peak_flops: float
    """bfloat16 operations a second of each device."""
    link_bytes: float
    """Bytes a second between a chip and its neighbours, all links together."""
    shapes: Sequence[Sequence[int]]
    """Of the slices that are rented, in chips."""
    chips_per_host: Sequence[int] = (2, 2, 1)
    chip_config_name: str | None = None
    has_text: bool = True
    """Whether libtpu gives the text of a compiled program; for some it ends the process instead."""


_SQUARE = ((2, 2), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBE = (
    (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16)
)  # fmt: skip

GENERATIONS = {
    generation.name: generation
    for generation in (
        TpuGeneration("v2", 2, 2, 8 * GIB, 23e12, 248e9, (*_SQUARE, (16, 16))),
        TpuGeneration("v3", 2, 2, 16 * GIB, 61.5e12, 328e9, (*_SQUARE, (16, 32), (32, 32))),
        TpuGeneration("v4", 2, 1, 32 * GIB, 275e12, 300e9, _CUBE, chip_config_name="megacore"),
        TpuGeneration("v5e", 1, 1, 16 * GIB, 197e12, 200e9, ((1, 1), (2, 2), (2, 4), *_SQUARE[1:])),
        TpuGeneration("v5p", 2, 1, 95 * GIB, 459e12, 600e9, _CUBE, has_text=False),
        TpuGeneration("v6e", 1, 1, 32 * GIB, 918e12, 448e9, ((1, 1), (2, 2), (2, 4), *_SQUARE[1:]), has_text=False),
    )
}


@dataclasses.dataclass(frozen=True)
class TpuSlice:
    """Chips of one generation that are rented together."""

    generation: TpuGeneration
    shape: Sequence[int]
    extra = "plan"
    compiler = "libtpu"
    is_tuned = True
    """The program is the one that the devices would run."""

    @property
    def has_text(self) -> bool:
        return self.generation.has_text

    @property
    def memory_bytes(self) -> int:
        """Of each device."""
        return self.generation.memory_bytes

    @property
    def peak_flops(self) -> float:
        """bfloat16 operations a second of each device."""
        return self.generation.peak_flops

    @property
    def link_bytes(self) -> float:
        """Bytes a second to each device from its neighbours."""
        return self.generation.link_bytes / self.generation.devices_per_chip

    @property
    def chips(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count

    @property
    def name(self) -> str:
        return f"{self.generation.name}-{self.chips * self.generation.cores_in_name}"

    @property
    def topology_name(self) -> str:
        """As libtpu has it, such as `v3:4x4`."""
        return f"{self.generation.name}:{'x'.join(map(str, self.shape))}"


SLICES = {
    found.name: found
    for found in (TpuSlice(generation, shape) for generation in GENERATIONS.values() for shape in generation.shapes)
}


Accelerators = TpuSlice | GpuHost


def accelerators_of(name: str) -> Accelerators:
    """What is rented under a name such as `v3-32` or `h100x8`.

    Raises:
        UserError: when nothing is.
    """
    wanted = re.sub(r"^(tpu|nvidia)[-_ ]?", "", name.strip().lower()).replace("v5litepod", "v5e").replace("_", "-")
    known: dict[str, Accelerators] = {**SLICES, **HOSTS}
    if wanted in known:
        return known[wanted]
    generation = wanted.partition("-")[0]
    alike = [slice_.name for slice_ in SLICES.values() if slice_.generation.name == generation]
    if alike:
        raise UserError(f"target: {name!r}: there is no such slice of {generation}. There are {', '.join(alike)}.")
    if hosts := hosts_of(wanted):
        alike = [host.name for host in hosts]
        raise UserError(f"target: {name!r}: there is no such host. There are {', '.join(alike)}.")
    near = difflib.get_close_matches(wanted, known, n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise UserError(f"target: {name!r} is not known.{meant} There are {', '.join(known)}.")


_TPU_KINDS = {
    "TPU v2": "v2", "TPU v3": "v3", "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p",
    "TPU v5p": "v5p", "TPU v6 lite": "v6e", "TPU v6e": "v6e",
}  # fmt: skip


def accelerators_of_kind(kind: str, count: int) -> Accelerators | None:
    """What devices are that JAX calls so, in the smallest slice or host; None of kinds that are not known here.

    Args:
        count: of the devices, which decides nothing but whether there are cards in one host.
    """
    if (name := _TPU_KINDS.get(kind)) is not None:
        return TpuSlice(GENERATIONS[name], GENERATIONS[name].shapes[0])
    return next((host for host in HOSTS.values() if host.gpu.kind == kind and host.count == min(count, 8)), None)
