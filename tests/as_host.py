"""`python as_host.py -m MODULE ...`, or `-c CODE ...`, or `FILE ...`: Python, as a host that keeps what it compiles.

JAX has the first host alone keep its programs; those of another one's CPUs have other names, and are never found. So
all hosts but the first would compile everything in every test.
"""

import runpy
import sys
from types import SimpleNamespace

from lodos.runtime import prepare_runtime

prepare_runtime()

from jax._src import compiler, distributed  # noqa: E402


class _Writes:
    """JAX's account of the hosts, for the one place that asks it who writes."""

    process_id = 0

    def __getattr__(self, name: str) -> object:
        return getattr(distributed.global_state, name)


compiler.distributed = SimpleNamespace(global_state=_Writes())

if __name__ == "__main__":
    how, *rest = sys.argv[1:]
    if how == "-m":
        module, *arguments = rest
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif how == "-c":
        code, *arguments = rest
        sys.argv = ["-c", *arguments]
        exec(code)
    else:
        sys.argv = [how, *rest]
        runpy.run_path(how, run_name="__main__")
