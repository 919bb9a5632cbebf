"""Devices that are not here: described ones; and several in a process that runs a test file as a script.

Devices are made of one CPU by XLA_FLAGS, which is read when JAX starts: so it has to be another process.
"""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lodos.target import Target


def run_with_devices(count: int, script: str, *arguments: str | Path) -> None:
    """Runs the file `script` with these arguments."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    flags = f"--xla_force_host_platform_device_count={count}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "XLA_FLAGS": flags}
    subprocess.run([sys.executable, script, *map(str, arguments)], check=True, env=environment)


@dataclasses.dataclass(frozen=True)
class Collective:
    """An operation that several devices take part in."""

    kind: str
    shapes: tuple[str, ...]
    """Of what comes of it, as f32[64,16]."""
    loops: int
    """How many loops it is in."""


def collectives(program: str) -> list[Collective]:
    """The collective operations of a compiled program's text.

    What only one device takes part in moves nothing and is left out.
    """
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    found = []
    for line in program.splitlines():
        name = re.search(rf"= (\(.*?\)|\S+) ({kinds})[\w-]*\(", line)
        alone = re.search(r"replica_groups=(\[\d+,1\]<=|\{\{0\},)", line)
        if name and not alone:
            source = re.search(r'op_name="([^"]*)"', line)
            shapes = tuple(re.findall(r"\w+\[[\d,]*\]", name[1]))
            found.append(Collective(name[2], shapes, source[1].count("while/body") if source else 0))
    return found


def described(platform: str, **device: Any) -> Target:
    """One device of a platform that need not be here."""
    about = {"platform": platform, "device_kind": f"some {platform}", "process_index": 0, **device}
    return Target([SimpleNamespace(**about)])


def travelling(program: str) -> list[str]:
    """The collective operations of a compiled program's text, `all-gather f32[64,16]` and the like."""
    return [f"{found.kind} {found.shapes[0]}" for found in collectives(program)]
