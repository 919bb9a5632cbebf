"""The most memory that a run has taken so far."""

import resource
import sys
from pathlib import Path

import jax


def peak_memory() -> tuple[str, int]:
    """What was measured, `device` or `process`, and its peak in bytes.

    The first device of this host says so itself, except a CPU: there it is the process's resident memory.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return "device", stats["peak_bytes_in_use"]
    return "process", _peak_resident()


def _peak_resident() -> int:
    # Where there is this file: Linux's getrusage begins with the peak of the process that started this one.
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    # macOS counts in bytes, others in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
