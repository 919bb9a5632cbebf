"""Jobs of several hosts: processes on this machine that speak to each other as on a cluster."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent


@dataclasses.dataclass
class Host:
    """One of the processes."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_until_it_says(self, text: str, *, seconds: float = 600) -> None:
        until = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < until, f"{text!r} was not said:\n{self.said}"
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


class Job:
    """`python -m <command>` on so many hosts of so many devices; a context manager that leaves none of them behind.

    Args:
        on: of which host a command differs, and what it is there.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str | Path],
        *,
        hosts: int,
        devices: int = 1,
        starts: Sequence[int] | None = None,
        on: dict[int, Sequence[str | Path]] | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        address = f"localhost:{free_port()}"
        self.hosts = []
        for index in range(hosts) if starts is None else starts:
            log = folder / f"host-{index}.log"
            environment = {
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(hosts),
                "JAX_PROCESS_ID": str(index),
            }
            arguments = [sys.executable, TESTS / "as_host.py", *map(str, (on or {}).get(index, command))]
            with log.open("wb") as out:
                process = subprocess.Popen(arguments, env=environment, stdout=out, stderr=out)
            self.hosts.append(Host(process, log))

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.process.kill()
            host.process.wait()

    def __getitem__(self, index: int) -> Host:
        return self.hosts[index]

    def send(self, index: int, signum: signal.Signals) -> None:
        self.hosts[index].process.send_signal(signum)

    def statuses(self, *, seconds: float = 600) -> list[int]:
        """The exit codes, when all have ended."""
        until = time.monotonic() + seconds
        return [host.process.wait(timeout=max(until - time.monotonic(), 0.1)) for host in self.hosts]
