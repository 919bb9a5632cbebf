"""Programs run within the process of the tests, which has imported and compiled most of what they need already."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from lodos.cli import main


def run_here(
    program: str | Path, arguments: Sequence[str | Path], *, cwd: Path, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """`lodos` or a Python script with these arguments, in the folder `cwd`: what it printed, and its exit status."""
    words = list(map(str, arguments))
    with contextlib.ExitStack() as stack:
        stdout = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stderr = stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(mock.patch.object(sys, "stdin", io.StringIO(stdin)))
        stack.enter_context(contextlib.chdir(cwd))
        try:
            status = main(words) if program == "lodos" else _run_script(os.path.realpath(program), words)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return subprocess.CompletedProcess([program, *words], status, stdout.getvalue(), stderr.getvalue())


def _run_script(path: str, arguments: Sequence[str]) -> int:
    """The script as Python runs it: its folder stands first on the path."""
    with (
        mock.patch.object(sys, "argv", [path, *arguments]),
        mock.patch.object(sys, "path", [os.path.dirname(path), *sys.path]),
    ):
        runpy.run_path(path, run_name="__main__")
    return 0
