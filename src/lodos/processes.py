"""Which process made something, and whether it still lives.

A process id says nothing by itself: another machine has the same ones, a container too, and after a while the same
machine gives it to somebody else. So a process is known by its machine, since when that is up, whose processes it sees,
its id and when it began.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import socket
from pathlib import Path

_TAG = re.compile(r"([0-9a-f]{12})-(\d+)-(\d+)")


@dataclasses.dataclass(frozen=True)
class Process:
    """A process, as far as its machine is concerned."""

    machine: str
    """The same for all processes that see each other."""
    pid: int
    began: int
    """Clock ticks from the start of the machine; 0 where that cannot be had."""

    @property
    def tag(self) -> str:
        """In letters that a file name may have."""
        return f"{self.machine}-{self.pid}-{self.began}"

    @classmethod
    def of_tag(cls, text: str) -> "Process | None":
        """The process whose tag is in a text; None where there is none."""
        match = _TAG.search(text)
        return None if match is None else cls(match[1], int(match[2]), int(match[3]))

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process that this one can see."""
        return self.machine == this_process().machine

    @property
    def is_gone(self) -> bool:
        """Whether it has surely ended; False also where nobody here can tell."""
        if not self.is_here:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # somebody else's, so it lives
            pass
        began = _began(self.pid)
        return bool(self.began and began and began != self.began)


def this_process() -> Process:
    return Process(_machine(), os.getpid(), _began(os.getpid()))


@functools.cache
def _machine() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _began(pid: int) -> int:
    """When a process began: field 22 of proc_pid_stat(5), counted from the end of the name, which may hold anything.

    0 where nobody says; -1 of one that has ended and that its parent has not waited for.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return -1 if fields[0] in "ZX" else int(fields[19])
