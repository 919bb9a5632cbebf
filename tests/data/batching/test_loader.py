"""Batch k is a function of (data, seed, k), and each row is met once an epoch."""

import itertools
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from lodos.data.batching.loader import EvalLoader, TrainLoader
from lodos.data.examples import TokenizedExample
from lodos.errors import UserError

Make = Callable[..., list[TokenizedExample]]


def _same(a: Any, b: Any) -> bool:
    names = ("tokens", "targets", "loss_weight", "segment_ids", "positions")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def _loader(examples: list[TokenizedExample], batch_size: int = 4, seed: int = 0, **options: Any) -> TrainLoader:
    return TrainLoader(examples, batch_size=batch_size, pad_id=0, seed=seed, **options)


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (12, 4), (3, 8), (1, 4), (7, 1)])
def test_every_row_once_an_epoch(make_examples: Make, n: int, batch_size: int) -> None:
    loader = _loader(make_examples(range(3, 3 + n)), batch_size)
    epochs = 5
    batches = [loader.rows(k) for k in range(math.ceil(epochs * n / batch_size))]
    assert all(len(rows) == batch_size for rows in batches)
    order = [example for rows in batches for row in rows for example in row]
    for epoch in range(epochs):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


@pytest.mark.parametrize("seq_len", [None, 16])
def test_batches_hold_the_rows_they_name(make_examples: Make, seq_len: int | None) -> None:
    examples = make_examples(range(3, 13))
    loader = _loader(examples, seq_len=seq_len)
    for k in range(8):
        batch: Any = loader[k]
        for i, row in enumerate(loader.rows(k)):
            real = batch.segment_ids[i] > 0
            assert batch.tokens[i][real].tolist() == [t for e in row for t in examples[e].ids[:-1]]


def test_epochs_and_seeds_have_orders_of_their_own(make_examples: Make) -> None:
    examples = make_examples([4] * 50)
    orders = [tuple(i for (i,) in _loader(examples, 50, seed).rows(k)) for seed in range(5) for k in range(5)]
    assert len(set(orders)) == 25
    assert tuple(range(50)) not in orders


def test_the_order_never_changes(make_examples: Make) -> None:
    # A run saved with one version must resume with the same batches in the next.
    loader = _loader(make_examples([4] * 10), 10, seed=7)
    assert [[i for (i,) in loader.rows(k)] for k in (0, 1)] == [
        [7, 9, 0, 8, 4, 2, 5, 6, 3, 1],
        [6, 0, 4, 2, 7, 9, 1, 5, 8, 3],
    ]
    packed = _loader(make_examples([4] * 10), 3, seed=7, seq_len=9)
    assert [packed.rows(0), packed.rows(1)] == [
        [[8, 7, 5], [9, 0, 2], [6, 3, 4]],
        [[1], [9, 0, 2], [6, 3, 4]],
    ]


@pytest.mark.parametrize("seq_len", [None, 50])
def test_resuming_at_k_is_going_on_from_k(make_examples: Make, seq_len: int | None) -> None:
    examples = make_examples(range(3, 40))
    straight = list(itertools.islice(iter(_loader(examples, seq_len=seq_len)), 30))
    for k in (0, 1, 9, 13, 29):
        resumed = itertools.islice(_loader(examples, seq_len=seq_len).iter_from_step(k), 30 - k)
        assert all(_same(a, b) for a, b in zip(straight[k:], resumed, strict=True))
    assert all(_same(batch, _loader(examples, seq_len=seq_len)[k]) for k, batch in enumerate(straight))


@pytest.mark.parametrize("seq_len", [None, 50])
@pytest.mark.parametrize("host_count", [2, 4])
def test_hosts_share_the_same_global_batches(make_examples: Make, seq_len: int | None, host_count: int) -> None:
    # 37 examples in batches of 8, so that the last batch of an evaluation is short, and lengths of 3 to 39, so that
    # the hosts' own shares would often fit another length.
    examples = make_examples(range(3, 40))

    def check(one: Any, shares: list[Any], steps: int) -> None:
        for k in range(steps):
            assert [row for loader in shares for row in loader.rows(k)] == one.rows(k)
            whole, parts = one[k], [loader[k] for loader in shares]
            assert all(np.shape(part.tokens)[0] == 8 // host_count for part in parts)
            assert _same(whole, jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts))

    hosts = [dict(host_index=index, host_count=host_count) for index in range(host_count)]
    options: dict[str, Any] = dict(batch_size=8, pad_id=0, seq_len=seq_len)
    check(TrainLoader(examples, seed=3, **options), [TrainLoader(examples, seed=3, **options, **h) for h in hosts], 12)
    one = EvalLoader(examples, **options)
    check(one, [EvalLoader(examples, **options, **host) for host in hosts], len(one))


def test_a_host_reads_only_its_share(make_examples: Make) -> None:
    class Counted(list[TokenizedExample]):
        lengths = np.full(40, 5)
        read = 0

        def __getitem__(self, i: Any) -> Any:
            self.read += 1
            return super().__getitem__(i)

        def __iter__(self) -> Any:
            pytest.fail("the examples were walked")

    examples = Counted(make_examples([5] * 40))
    loader = _loader(examples, batch_size=8, host_index=1, host_count=4)
    assert np.shape(loader[0].tokens) == (2, 8)
    assert examples.read == 2


def test_resuming_far_out_makes_no_batch_before_it(make_examples: Make) -> None:
    made: list[int] = []

    class Counted(list[TokenizedExample]):
        def __getitem__(self, i: Any) -> Any:
            made.append(i)
            return super().__getitem__(i)

    loader = _loader(Counted(make_examples(range(3, 40))))
    iterator = loader.iter_from_step(10**9)
    made.clear()
    next(iterator)
    del iterator
    assert 4 <= len(made) <= 4 * 6  # itself and what was read ahead


def test_batches_come_from_another_thread(make_examples: Make) -> None:
    threads: set[int] = set()

    class Watched(list[TokenizedExample]):
        def __getitem__(self, i: Any) -> Any:
            threads.add(threading.get_ident())
            return super().__getitem__(i)

    loader = _loader(Watched(make_examples(range(3, 40))))
    iterator = iter(loader)
    threads.clear()
    for _ in range(20):
        next(iterator)
    assert threads
    assert threading.get_ident() not in threads


def test_the_order_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from lodos.data.batching.loader import TrainLoader\n"
        "from lodos.data.split import split\n"
        "from lodos.data.examples import TokenizedExample\n"
        "import numpy as np\n"
        "all = [TokenizedExample(np.arange(n + 2), np.arange(n + 2) > 0, 'f', 1) for n in range(50)]\n"
        "kept, held = split(all, 10, 3)\n"
        "loader = TrainLoader(kept, batch_size=4, pad_id=0, seed=5)\n"
        "print([len(e.ids) for e in held], loader.lengths, [loader.rows(k) for k in range(30)])\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
        )
        for seed in ("0", "1", "2", "3")
    ]
    outputs = {process.communicate()[0] for process in processes}
    assert len(outputs) == 1
    assert outputs.pop().startswith(b"[")


def test_a_batch_may_be_a_single_row(make_examples: Make) -> None:
    loader = _loader(make_examples([3, 4, 5, 6, 7]), batch_size=1)
    batches = iter(loader)
    seen = [loader.rows(k)[0][0] for k in range(10)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]
    for k in range(10):
        assert np.array_equal(next(batches).tokens, loader[k].tokens)


def test_shapes_are_few_and_the_smallest_that_hold(make_examples: Make) -> None:
    examples = make_examples([3] * 20 + [30] * 10 + [100] * 5 + [301])
    loader = _loader(examples, batch_size=2)
    shapes = set()
    for k in range(90):
        shape = np.shape(loader[k].tokens)
        longest = max(len(examples[i].ids) - 1 for (i,) in loader.rows(k))
        assert shape == (2, min(length for length in loader.lengths if length >= longest))
        assert loader.length_of(k) == shape[1]
        shapes.add(shape)
    assert 1 < len(shapes) <= 4
    fixed = _loader(examples, lengths=[512])
    assert {np.shape(fixed[k].tokens) for k in range(20)} == {(4, 512)}


def test_packed_batches_have_one_shape_and_every_example_once_an_epoch(make_examples: Make) -> None:
    examples = make_examples([*range(3, 43), 65, 64])
    loader = _loader(examples, batch_size=3, seq_len=64)
    assert loader.row_count < len(examples)
    assert loader.lengths == (64,)
    rows = [row for k in range(4 * loader.row_count) for row in loader.rows(k)]
    packs = sorted(rows[: loader.row_count])
    assert sorted(i for row in packs for i in row) == list(range(42))
    epochs = [rows[i : i + loader.row_count] for i in range(0, 12 * loader.row_count, loader.row_count)]
    assert all(sorted(epoch) == packs for epoch in epochs)  # packed once
    assert len({str(epoch) for epoch in epochs}) > 1  # but in an order of its own
    for k in range(loader.row_count):
        batch: Any = loader[k]
        assert batch.tokens.shape == (3, 64)
        for i, row in enumerate(loader.rows(k)):
            segments = [segment for segment, e in enumerate(row, 1) for _ in examples[e].ids[1:]]
            positions = [position for e in row for position in range(len(examples[e].ids) - 1)]
            assert batch.segment_ids[i].tolist() == segments + [0] * (64 - len(segments))
            assert batch.positions[i].tolist() == positions + [0] * (64 - len(positions))


@pytest.mark.parametrize("seq_len", [None, 400])
def test_efficiency_is_the_share_of_real_positions(make_examples: Make, seq_len: int | None) -> None:
    examples = make_examples([3] * 20 + [30] * 10 + [100] * 5 + [301])
    loader = _loader(examples, batch_size=2, seq_len=seq_len)
    batches: list[Any] = [loader[k] for k in range(150)]
    real = sum(np.count_nonzero(batch.segment_ids) for batch in batches)
    assert real / sum(batch.tokens.size for batch in batches) == pytest.approx(loader.efficiency, rel=0.05)


def test_epochs_in_steps(make_examples: Make) -> None:
    loader = _loader(make_examples([4] * 10), 4)
    assert loader.batches_per_epoch == 2.5
    assert [loader.steps_for_epochs(e) for e in (0, 0.4, 1, 1.2, 2, 3)] == [0, 1, 3, 3, 5, 8]
    assert _loader(make_examples([4] * 10), 1).steps_for_epochs(1.1) == 11  # 1.1 * 10 is above 11 in binary
    packed = _loader(make_examples([4] * 10), 2, seq_len=6)
    assert (packed.row_count, packed.batches_per_epoch, packed.steps_for_epochs(1)) == (5, 2.5, 3)


def test_packed_evaluation_sees_each_example_once(make_examples: Make) -> None:
    examples = make_examples([9, 3, 30, 5, 9, 31, 4])
    loader = EvalLoader(examples, batch_size=3, pad_id=0, seq_len=30)
    batches: list[Any] = list(loader)
    assert len(loader) == len(batches) == 1
    assert sorted(i for row in loader.rows(0) for i in row) == list(range(7))
    assert batches[0].tokens.shape == (3, 30)
    assert batches[0].loss_weight.sum() == sum(e.trained.sum() for e in examples)


def test_evaluation_sees_each_row_once_in_one_shape_of_batch(make_examples: Make) -> None:
    examples = make_examples([9, 3, 30, 5, 9, 300, 4])
    train = _loader(examples, 3)
    loader = EvalLoader(examples, batch_size=3, pad_id=0, lengths=train.lengths)
    batches: list[Any] = list(loader)
    assert len(loader) == len(batches) == 3
    assert sorted(i for k in range(3) for (i,) in loader.rows(k)) == list(range(7))
    assert all(b.tokens.shape[0] == 3 and b.tokens.shape[1] in train.lengths for b in batches)
    assert sum(b.loss_weight.sum() for b in batches) == sum(e.trained.sum() for e in examples)
    assert not batches[-1].loss_weight[1:].any()  # two rows of filler
    assert not batches[-1].segment_ids[1:].any()
    assert all(_same(a, b) for a, b in zip(batches, loader, strict=True))
    assert batches[0].tokens.shape[1] == max(train.lengths)  # the longest first


def test_what_cannot_be_loaded_is_refused(make_examples: Make) -> None:
    for make in (_loader, lambda e, b=4, **o: EvalLoader(e, batch_size=b, pad_id=0, **o)):
        with pytest.raises(UserError, match="no examples"):
            make([])
        with pytest.raises(UserError, match="batch_size: 0"):
            make(make_examples([4]), 0)
        with pytest.raises(UserError, match=r"made.json, row 2: needs 19 positions, more than any .* \[8, 16\]"):
            make(make_examples([4, 20]), lengths=[16, 8, 16])
        with pytest.raises(UserError, match=r"made.json, row 2: needs 19 positions.* \[16\]. 1 others are too long"):
            make(make_examples([4, 20, 18]), seq_len=16)
        with pytest.raises(UserError, match="seq_len: 0 must be at least 1"):
            make(make_examples([1]), seq_len=0)
        with pytest.raises(UserError, match="seq_len: 16 packs into rows of one length"):
            make(make_examples([4]), lengths=[8], seq_len=16)
        with pytest.raises(UserError, match="batch_size: 4 rows cannot be shared equally by 3 hosts"):
            make(make_examples([4]), host_count=3)
        with pytest.raises(UserError, match="host_index: 4 is not one of 4 hosts"):
            make(make_examples([4]), host_index=4, host_count=4)
    with pytest.raises(UserError, match="seed: -1"):
        _loader(make_examples([4]), seed=-1)
    with pytest.raises(IndexError):
        _loader(make_examples([4]))[-1]
    with pytest.raises(IndexError):
        EvalLoader(make_examples([4]), batch_size=4, pad_id=0)[1]
