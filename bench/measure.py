"""What the benchmarks share: the machine they ran on, memory, medians, tables and JSON.

Knows nothing of what is measured, and imports nothing heavy: whoever measures others must not get in their way.
"""

import contextlib
import ctypes
import importlib.metadata
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lodos.data.tokens.workers import core_count

_PR_SET_PDEATHSIG = 1  # of prctl, from linux/prctl.h

VERSIONS_OF = ("lodos", "jax", "jaxlib", "torch", "transformers", "peft", "trl")


def machine() -> dict[str, Any]:
    """Cores, processor, memory and the versions of what is installed."""
    return {
        "cores": core_count(),
        "processor": _proc_field("/proc/cpuinfo", "model name") or platform.processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "versions": {name: version for name in VERSIONS_OF if (version := version_of(name)) is not None},
    }


def version_of(package: str) -> str | None:
    """The installed version; None if it is not installed. Imports nothing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def peak_resident(process_id: int | None = None) -> int:
    """The most resident memory a process has ever had, in bytes; by default this one. 0 where nobody counts it."""
    # Not getrusage's: a process starts with the peak of whoever started it there.
    field = _proc_field(f"/proc/{process_id or 'self'}/status", "VmHWM")
    return int(field.split()[0]) * 1024 if field else 0


def die_first() -> None:
    """Should memory run out, this process is the one to be killed, and nobody else's."""
    if (path := Path("/proc/self/oom_score_adj")).exists():
        path.write_text("1000")


def die_with_parent() -> None:
    """For the start of a child process: it is killed when whoever started it ends, in whatever way. A process that is
    stopped would not see that its input has ended. Only Linux can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def give_back_freed_memory() -> None:
    """Of this process, to the system; only glibc can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def wait_until(condition: Callable[[], Any], *, seconds: float, what: Callable[[], str]) -> None:
    """Looks every hundredth of a second whether it has come true.

    Raises:
        TimeoutError: when it has not after so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what()}: not after {seconds:.0f} s.")
        time.sleep(0.01)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under each other, the first to the left and the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        first, *others = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        numbers = [text.rstrip().rjust(len(text)) for text in others]
        print("  ".join([first, *numbers]).rstrip(), flush=True)


def write_report(path: Path, **report: Any) -> None:
    """The report as JSON, with the machine and the command that made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"command": " ".join(["python", *sys.argv]), "machine": machine(), **report}
    path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}")


class PeakMemory:
    """Samples the resident memory of a process and all below it, in bytes; ten times a second."""

    def __init__(self, process_id: int | None = None) -> None:
        """
        Args:
            process_id: by default this process.
        """
        self._process_id = process_id or os.getpid()
        self._peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return self._peak

    def _sample(self) -> None:
        while not self._stopped.wait(0.1):
            self._peak = max(self._peak, sum(map(_resident, _with_descendants(self._process_id))))


def _with_descendants(process_id: int) -> list[int]:
    found = [process_id]
    for task in Path(f"/proc/{process_id}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it has just ended
            continue
        for child in children:
            found += _with_descendants(int(child))
    return found


def _resident(process_id: int) -> int:
    try:
        return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _proc_field(path: str, name: str) -> str | None:
    """What a file of Linux's /proc says after `name:`."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)
