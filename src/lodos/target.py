"""What programs are compiled for: the devices that are here, or described ones that are somewhere else.

    target()                        the devices of this job
    with compiling_for(others):     some of them, or described ones, whose programs can be compiled and not run

Whoever chooses by the kind of device asks here; `jax.default_backend()` would tell what happens to be at hand.
"""

import contextvars
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from lodos import hosts


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices of one kind.

    Args:
        devices: all of the job's, of every process: JAX's own, or those of a `TopologyDescription`.
        memory_bytes: of each device, where more is known than the devices tell.
    """

    devices: Sequence[Any]
    memory_bytes: int | None = None

    @property
    def platform(self) -> str:
        """`cpu`, `gpu` or `tpu`."""
        platform: str = self.devices[0].platform
        return _PLATFORMS.get(platform, platform)

    @property
    def kind(self) -> str:
        """The device's name as JAX has it, such as `TPU v3`."""
        return self.devices[0].device_kind

    @property
    def first_here(self) -> Any:
        """The first device of this process."""
        return next(device for device in self.devices if device.process_index == hosts.index())

    @property
    def device_count(self) -> int:
        return len(self.devices)

    @property
    def process_count(self) -> int:
        return len({device.process_index for device in self.devices})

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """Of an NVIDIA GPU, such as (9, 0); other devices have none, and AMD's are called gfx90a."""
        major, _, minor = str(getattr(self.devices[0], "compute_capability", "")).partition(".")
        return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None

    @property
    def tpu_generation(self) -> int | None:
        """The number in `TPU v5 lite`; None on other devices."""
        digits = self.kind.removeprefix("TPU v")[:1] if self.platform == "tpu" else ""
        return int(digits) if digits.isdecimal() else None


_PLATFORMS = {"cuda": "gpu", "rocm": "gpu"}
_chosen: contextvars.ContextVar[Target | None] = contextvars.ContextVar("chosen", default=None)


def target() -> Target:
    """What is compiled for here and now."""
    return _chosen.get() or Target(jax.devices())


@contextmanager
def compiling_for(chosen: Target) -> Iterator[None]:
    """Within it, programs and meshes are made for these devices."""
    token = _chosen.set(chosen)
    try:
        yield
    finally:
        _chosen.reset(token)
