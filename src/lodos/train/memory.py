"""The memory that a device has, and the most that a run has taken so far."""

import os
import resource
import sys
from pathlib import Path

from lodos.target import target

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_of_device() -> int | None:
    """Bytes of each device that is compiled for; None where nobody says.

    The devices of a CPU share the machine's memory, or what a container has of it.
    """
    here = target()
    if here.memory_bytes is not None:
        return here.memory_bytes
    if here.platform == "cpu":
        of_process = sum(device.process_index == here.devices[0].process_index for device in here.devices)
        memory = _memory_of_machine()
        return None if memory is None else memory // of_process
    stats = target().first_here.memory_stats()
    return (stats or {}).get("bytes_limit")


def peak_memory() -> tuple[str, int]:
    """What was measured, `device` or `process`, and its peak in bytes.

    The first device of this host says so itself, except a CPU: there it is the process's resident memory.
    """
    stats = target().first_here.memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return "device", stats["peak_bytes_in_use"]
    return "process", _peak_resident()


def _memory_of_machine() -> int | None:
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    limit = _CGROUP_LIMIT.read_text(encoding="utf-8").strip() if _CGROUP_LIMIT.exists() else ""
    return min(memory, int(limit)) if limit.isdecimal() else memory


def _peak_resident() -> int:
    # Where there is this file: Linux's getrusage begins with the peak of the process that started this one.
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    # macOS counts in bytes, others in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
