"""What a process that trains wants of the C library and of the libraries that it will import.

`lodos` does so on its own; a script over the library calls `prepare_runtime()` before it imports JAX.
"""

import atexit
import contextlib
import ctypes
import hashlib
import os
import platform
import sys
import threading
from pathlib import Path
from typing import NoReturn

from lodos import signals
from lodos.errors import UserError
from lodos.files import cache_folder

# Parameters of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_TOP_PAD = 64 << 20

_GPU_MEMORY_SHARE = "0.9"
"""Of a GPU's memory that JAX may use; left alone it would take three quarters of it."""
_SHARE, _SHARE_BEFORE = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
"""JAX's names of it, the newer first; it refuses both at once."""

_SILENCE = "60"

COMPILER_THREAD = "lodos-compile"
"""How threads are called that compile in the background."""


def prepare_runtime() -> None:
    """Keeps freed memory, and compiled programs from one run to the next. What the user has set stays."""
    _keep_freed_memory()
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(compilation_cache()),
        # JAX keeps only what took a second; dozens of small programs together take more.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # Orbax, JAX and XLA report their routine at this level through absl and C++.
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Seconds after which TensorStore gives up a connection that is not made, or over which nothing comes; by itself
        # it waits for ever.
        "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": _SILENCE,
        "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": _SILENCE,
        # Nothing is reported to anyone unless asked for.
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # transformers is used without torch, and says so on every import.
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if _SHARE_BEFORE not in os.environ:
        defaults[_SHARE] = _GPU_MEMORY_SHARE
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def gpu_memory_share() -> float:
    """How much of a GPU's memory a run may use; the rest is left to CUDA, cuDNN and NCCL.

    Raises:
        UserError: when the environment says it in a way that is no number.
    """
    name = _SHARE_BEFORE if os.environ.get(_SHARE_BEFORE) else _SHARE
    given = os.environ.get(name) or _GPU_MEMORY_SHARE
    try:
        return float(given)
    except ValueError:
        raise UserError(f"{name}: {given!r} in the environment is not a number, such as 0.9.") from None


def compilation_cache() -> Path:
    """Where JAX keeps what it has compiled: a folder for each kind of processor, whose code others may not run."""
    return cache_folder() / "xla" / _processor()


def exit_process(status: int) -> NoReturn:
    """Ends the process with this status, without taking apart what is in its memory.

    That would take a part of a second, in which a signal is lost. Neither does a failure wait for a program that is
    being compiled in the background: XLA cannot be interrupted, and takes minutes for a large model.
    """
    if not status or not any(thread.name.startswith(COMPILER_THREAD) for thread in threading.enumerate()):
        # As the interpreter does at its end, and multiprocessing at that of a process.
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        signals.ending()
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def _keep_freed_memory() -> None:
    """glibc gives a freed block of many megabytes back to the kernel at once, and the next one faults in page by page.

    A training step on a CPU frees and allocates gigabytes, which costs it a tenth to a third of its time. From one
    arena, without `mmap` and without trimming, each step uses the memory of the step before.
    """
    tuned = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return
    for parameter, value in (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, -1),
        (_M_TOP_PAD, _TOP_PAD),
        (_M_ARENA_MAX, 1),
    ):
        mallopt(parameter, value)


def _processor() -> str:
    features = platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            features = next((line for line in lines if line.startswith(("flags", "Features"))), features)
    except OSError:
        pass  # not Linux
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
