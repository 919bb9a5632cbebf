"""Runs a test file as a script in a process with several devices.

Devices are made of one CPU by XLA_FLAGS, which is read when JAX starts: so it has to be another process.
"""

import os
import subprocess
import sys
from pathlib import Path


def run_with_devices(count: int, script: str, *arguments: str | Path) -> None:
    """Runs the file `script` with these arguments."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    flags = f"--xla_force_host_platform_device_count={count}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "XLA_FLAGS": flags}
    subprocess.run([sys.executable, script, *map(str, arguments)], check=True, env=environment)
