"""Contestants work when asked and sleep otherwise."""

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
            wait_until(lambda: _state(contestant.process_id) == "T", seconds=5, what="stopped")


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


def _state(process_id: int) -> str:
    """As Linux calls it: R running, S sleeping, T stopped."""
    return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
