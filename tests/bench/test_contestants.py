"""Contestants work when asked and sleep otherwise."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bench.contestants import Contestant, ContestantFailedError
from bench.measure import wait_until

SHAPES = {"shapes": [(8, 16, 24), (8, 24, 16)]}


@pytest.mark.parametrize("library", ["jax", "torch"])
def test_a_contestant_answers_each_request_and_is_stopped_in_between(library: str) -> None:
    with Contestant(library, f"bench.peers.matrix:{library}_matrix", SHAPES) as contestant:
        assert contestant.facts["peak_bytes"] > 1e6
        for _ in range(2):
            speeds = contestant.ask(seconds=0.01)["flops_per_second"]
            assert len(speeds) == 2
            assert min(speeds) > 0
            contestant.rest()
            wait_until(lambda: _state(contestant.process_id) == "T", seconds=5, what=lambda: "stopped")


def test_one_that_is_killed_is_said_to_be() -> None:
    with Contestant("torch", "bench.peers.matrix:torch_matrix", SHAPES) as contestant:
        os.kill(contestant.process_id, signal.SIGKILL)
        with pytest.raises(ContestantFailedError, match="torch: killed") as failed:
            contestant.ask(seconds=0.01)
    assert failed.value.cause == "killed, probably for want of memory"


def test_the_environment_is_its_own() -> None:
    variables = {"MALLOC_ARENA_MAX": "1"}
    with Contestant("torch", "bench.peers.matrix:torch_matrix", SHAPES, variables) as contestant:
        environment = Path(f"/proc/{contestant.process_id}/environ").read_bytes().split(b"\0")
        assert b"MALLOC_ARENA_MAX=1" in environment


def test_one_that_fails_says_why() -> None:
    with pytest.raises(ContestantFailedError, match=r"(?s)poor: exit status 1.*no attribute 'nothing'"):
        Contestant("poor", "bench.peers.matrix:nothing", {})


def test_one_that_fails_later_says_why() -> None:
    with (
        Contestant("torch", "bench.peers.matrix:torch_matrix", SHAPES) as contestant,
        pytest.raises(ContestantFailedError, match="KeyError: 'seconds'"),
    ):
        contestant.ask(something_else=1)


def test_none_outlives_a_benchmark_that_is_killed() -> None:
    code = (
        "from bench.contestants import Contestant; import time\n"
        f"contestant = Contestant('torch', 'bench.peers.matrix:torch_matrix', {SHAPES!r})\n"
        "print(contestant.process_id, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as benchmark:
        assert benchmark.stdout is not None
        process_id = int(benchmark.stdout.readline())
        benchmark.kill()
    wait_until(lambda: not _alive(process_id), seconds=5, what=lambda: "ended")


def _alive(process_id: int) -> bool:
    try:
        return _state(process_id) != "Z"
    except FileNotFoundError:
        return False


def _state(process_id: int) -> str:
    """As Linux calls it: R running, S sleeping, T stopped."""
    return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
