"""The most memory that a run has taken so far."""

import resource
import sys

import jax


def peak_memory() -> tuple[str, int]:
    """What was measured, `device` or `process`, and its peak in bytes.

    The first device of this host says so itself, except a CPU: there it is the process's resident memory.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return "device", stats["peak_bytes_in_use"]
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return "process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
