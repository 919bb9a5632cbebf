"""Freed memory stays with the process, compiled programs with the user; what the user has set stays as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ALLOCATES = """
from lodos.runtime import prepare_runtime
prepare_runtime()
import numpy as np
held = [np.ones(2_500_000) for _ in range(10)]  # 20 MB each, which glibc would give back at once
del held
status = open("/proc/self/status").read()
print(int(status.split("VmRSS:")[1].split()[0]) // 1024)
"""


# Commands that other tests run in this process leave these behind, as would a user's own settings.
SETTINGS = ("JAX_", "XLA_", "MALLOC_", "GLIBC_TUNABLES", "TENSORSTORE_")


def run(script: str, **environment: str) -> str:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**bare, **environment}
    ).stdout.strip()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc's allocator is told anything")
def test_freed_memory_is_kept_unless_the_user_has_settings_of_their_own() -> None:
    kept, given_back = int(run(ALLOCATES)), int(run(ALLOCATES, MALLOC_ARENA_TEST="8"))
    assert kept > 200
    assert given_back < 150


def test_compiled_programs_are_kept_where_the_cache_is(tmp_path: Path) -> None:
    script = """
from lodos.runtime import prepare_runtime
prepare_runtime()
import jax, jax.numpy as jnp
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
jax.jit(lambda x: x @ x + 1)(jnp.ones((8, 8))).block_until_ready()
print(found.count("/jax/compilation_cache/cache_hits"), found.count("/jax/compilation_cache/cache_misses"))
"""
    hits, misses = run(script, LODOS_CACHE=str(tmp_path)).split()
    assert hits == "0"
    assert len(list((tmp_path / "xla").rglob("*-cache"))) == int(misses) > 0
    assert run(script, LODOS_CACHE=str(tmp_path)).split() == [misses, "0"]


COMPILES = """
import threading, time
from lodos.runtime import COMPILER_THREAD, exit_process
def compile_step():
    time.sleep({seconds})
    print("compiled")
threading.Thread(target=compile_step, name=COMPILER_THREAD + "_0").start()
print("said")
exit_process({status})
"""


@pytest.mark.parametrize(("status", "seconds", "words"), [(1, 60, ["said"]), (0, 1, ["said", "compiled"])])
def test_a_failure_does_not_wait_for_the_compiler(status: int, seconds: int, words: list[str]) -> None:
    command = [sys.executable, "-c", COMPILES.format(status=status, seconds=seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stdout.split() == words


def test_a_cache_of_the_users_is_used(tmp_path: Path) -> None:
    script = (
        "from lodos.runtime import prepare_runtime; prepare_runtime();"
        "import jax; print(jax.config.jax_compilation_cache_dir)"
    )
    assert run(script, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine")) == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("given", "fraction"),
    [({}, "0.9"), ({"XLA_CLIENT_MEM_FRACTION": ".5"}, "0.5"), ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".4"}, "0.4")],
)
def test_jax_may_use_most_of_a_gpu_unless_the_user_says_how_much(given: dict[str, str], fraction: str) -> None:
    script = """
from lodos.runtime import gpu_memory_share, prepare_runtime
prepare_runtime()
from jaxlib import xla_client
print(xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"], gpu_memory_share())
"""
    assert run(script, **given).split() == [fraction, fraction]


@pytest.mark.parametrize(("given", "seconds"), [({}, "60"), ({"TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "7"}, "7")])
def test_tensorstore_waits_for_silence_no_longer_than_is_said(given: dict[str, str], seconds: str) -> None:
    """Not for ever, as by itself."""
    script = """
import os
from lodos.runtime import prepare_runtime
prepare_runtime()
print(os.environ["TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS"])
"""
    assert run(script, **given) == seconds
