"""Blocks that nobody sees are not computed, and nothing that is made is quadratic in the length."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention_reference import first_of, make_arrays, make_segments
from jaxprs import output_sizes
from lodos.nn.attention import blockwise
from lodos.nn.attention.blockwise import blockwise_attention


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of every block that is computed, the keys of its run, in blocks."""
    done: list[int] = []
    original = blockwise._run

    def counted(blocks: Any, size: int, *args: Any) -> Any:
        jax.debug.callback(lambda: done.append(size))
        return original(blocks, size, *args)

    monkeypatch.setattr(blockwise, "_run", counted)
    return done


def forward(length: int, first: np.ndarray) -> None:
    q, k, v, _ = make_arrays(len(first), length, 1, 1, 2)
    # A function of its own each time: what is compiled is what is counted.
    jax.block_until_ready(jax.jit(lambda *args: blockwise_attention(*args))(q, k, v, first))
    jax.effects_barrier()


def forward_and_backward(length: int, first: np.ndarray) -> None:
    q, k, v, _ = make_arrays(len(first), length, 1, 1, 2)
    jax.block_until_ready(jax.jit(jax.grad(lambda *args: blockwise_attention(*args).sum(), (0, 1, 2)))(q, k, v, first))
    jax.effects_barrier()


def packed(length: int, *rows: Sequence[int], window: int | None = None) -> np.ndarray:
    return first_of(make_segments(length, *rows), window)


def test_a_long_example_costs_half_of_the_square_or_little_more(block: int, work: list[int]) -> None:
    blocks = 11
    forward(blocks * block, packed(blocks * block, [blocks * block]))
    assert len(work) == blocks
    # Runs of 5, 7, 9 and 10 blocks are rounded up to 6, 8 and 11.
    assert sum(work) == 1 + 2 + 3 + 4 + 6 + 6 + 8 + 8 + 11 + 11 + 11
    assert sum(work) <= 1.25 * blocks * (blocks + 1) / 2


def test_the_backward_pass_computes_the_same_blocks_once_more(block: int, work: list[int]) -> None:
    first = packed(6 * block, [6 * block], [block, 2 * block, 3 * block])
    forward(6 * block, first)
    once = sorted(work)
    work.clear()
    forward_and_backward(6 * block, first)
    assert sorted(work) == sorted(once * 2)


def test_a_packed_row_costs_what_its_segments_cost(block: int, work: list[int]) -> None:
    """Three segments that end where blocks do: each as if it were alone."""
    forward(6 * block, packed(6 * block, [block, 2 * block, 3 * block]))
    assert sorted(work) == [1, 1, 1, 2, 2, 3]


def test_filler_costs_one_block_of_keys_a_block(block: int, work: list[int]) -> None:
    forward(6 * block, packed(6 * block, [block], []))
    assert sorted(work) == [1] * 12


def test_a_window_costs_the_same_however_long_the_row(block: int, work: list[int]) -> None:
    forward(8 * block, packed(8 * block, [8 * block], window=block + 1))
    assert sorted(work) == [1, *[2] * 7]


def test_work_a_token_depends_on_the_examples_and_not_on_the_row(block: int, work: list[int]) -> None:
    """Examples of about one and a half blocks, in rows of 4 and of 64 blocks."""
    lengths = np.random.default_rng(0).integers(block, 2 * block, 64 * block).tolist()
    a_token = []
    for blocks in (4, 64):
        work.clear()
        forward(blocks * block, packed(blocks * block, lengths))
        a_token.append(sum(work) / (blocks * block))
    assert a_token[1] <= 1.3 * a_token[0]


@pytest.mark.parametrize("longest", range(1, 70))
def test_no_run_is_rounded_up_by_more_than_half(longest: int) -> None:
    sizes = blockwise._run_sizes(longest)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] == longest
    assert all(min(size for size in sizes if size >= run) < 1.5 * run + 0.5 for run in range(1, longest + 1))


def largest_array(length: int) -> int:
    """In forward and backward pass."""
    q, k, v, _ = (jnp.asarray(x) for x in make_arrays(1, length, 2, 1, 2))
    gradients = jax.grad(lambda q, k, v, first: blockwise_attention(q, k, v, first).sum(), (0, 1, 2))
    return max(output_sizes(gradients, q, k, v, jnp.zeros((1, length), jnp.int32)))


def test_no_array_is_quadratic_in_the_length(block: int) -> None:
    short, long = (largest_array(length) for length in (16 * block, 64 * block))
    assert short >= 2 * block * 16 * block  # the scores of the longest run were counted
    assert long <= 4 * short
