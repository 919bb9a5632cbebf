"""How long a step would take, by the published speeds of the devices: what candidates are put in order by."""

import dataclasses

from lodos.nn.stacked import GradientCheckpointing
from lodos.plan.accelerators import accelerators_of_kind
from lodos.target import target

UTILIZATION = 0.4
"""Share of what is published that a step is expected to reach, of operations and of links alike."""
_RECOMPUTED: dict[GradientCheckpointing, float] = {"none": 0.0, "auto": 0.05, "dots": 0.05, "full": 0.5}
"""Operations done a second time, as a share of the step's: with a frozen base a forward pass is half of them."""
_UNKNOWN_FLOPS, HOST_LINK = 1e12, 10e9
"""Of devices of which nothing better is known: operations a second, and bytes between devices. They put candidates in
order, and are not printed."""


@dataclasses.dataclass(frozen=True)
class Speeds:
    """Of one device."""

    flops: float
    """Operations a second, as it can be expected to reach."""
    link_bytes: float
    """Bytes a second to and from other devices."""

    @classmethod
    def of_target(cls, utilization: float = UTILIZATION) -> "Speeds":
        """Those of the devices that are compiled for: published ones, nothing measured, the same on every host."""
        known = accelerators_of_kind(target().kind, target().device_count)
        if known is None:
            return cls(_UNKNOWN_FLOPS * utilization, HOST_LINK)
        return cls(known.peak_flops * utilization, known.link_bytes * utilization)

    def seconds(self, flops: float, checkpointing: GradientCheckpointing, moved: int, devices: int) -> float:
        """Of a step: computing it, and moving what it moves, one after the other.

        Args:
            flops: of the step, over all devices, without what is computed again.
            moved: bytes that come to a device.
        """
        return flops * (1 + _RECOMPUTED[checkpointing]) / devices / self.flops + moved / self.link_bytes
