"""Batch k is a function of (data, seed, k), and each row is met once an epoch."""

import itertools
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lodos.data.examples import TokenizedExample
from lodos.data.loader import EvalLoader, TrainLoader
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
    order = list(itertools.chain(*batches))
    for epoch in range(epochs):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_batches_hold_the_rows_they_name(make_examples: Make) -> None:
    examples = make_examples(range(3, 13))
    loader = _loader(examples)
    for k in range(8):
        batch: Any = loader[k]
        for i, row in enumerate(loader.rows(k)):
            real = batch.segment_ids[i] > 0
            assert batch.tokens[i][real].tolist() == examples[row].ids[:-1].tolist()


def test_epochs_and_seeds_have_orders_of_their_own(make_examples: Make) -> None:
    examples = make_examples([4] * 50)
    orders = [tuple(_loader(examples, 50, seed).rows(k)) for seed in range(5) for k in range(5)]
    assert len(set(orders)) == 25
    assert tuple(range(50)) not in orders


def test_the_order_never_changes(make_examples: Make) -> None:
    # A run saved with one version must resume with the same batches in the next.
    loader = _loader(make_examples([4] * 10), 10, seed=7)
    assert [loader.rows(0), loader.rows(1)] == [
        [7, 9, 0, 8, 4, 2, 5, 6, 3, 1],
        [6, 0, 4, 2, 7, 9, 1, 5, 8, 3],
    ]


def test_resuming_at_k_is_going_on_from_k(make_examples: Make) -> None:
    examples = make_examples(range(3, 40))
    straight = list(itertools.islice(iter(_loader(examples)), 30))
    for k in (0, 1, 9, 13, 29):
        resumed = itertools.islice(_loader(examples).iter_from_step(k), 30 - k)
        assert all(_same(a, b) for a, b in zip(straight[k:], resumed, strict=True))
    assert all(_same(batch, _loader(examples)[k]) for k, batch in enumerate(straight))


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
        "from lodos.data.loader import TrainLoader\n"
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


def test_shapes_are_few_and_the_smallest_that_hold(make_examples: Make) -> None:
    examples = make_examples([3] * 20 + [30] * 10 + [100] * 5 + [301])
    loader = _loader(examples, batch_size=2)
    shapes = set()
    for k in range(90):
        shape = np.shape(loader[k].tokens)
        longest = max(len(examples[i].ids) - 1 for i in loader.rows(k))
        assert shape == (2, min(length for length in loader.lengths if length >= longest))
        shapes.add(shape)
    assert 1 < len(shapes) <= 4
    fixed = _loader(examples, lengths=[512])
    assert {np.shape(fixed[k].tokens) for k in range(20)} == {(4, 512)}


def test_epochs_in_steps(make_examples: Make) -> None:
    loader = _loader(make_examples([4] * 10), 4)
    assert loader.batches_per_epoch == 2.5
    assert [loader.steps_for_epochs(e) for e in (0, 0.4, 1, 1.2, 2, 3)] == [0, 1, 3, 3, 5, 8]
    assert _loader(make_examples([4] * 10), 1).steps_for_epochs(1.1) == 11  # 1.1 * 10 is above 11 in binary


def test_evaluation_sees_each_row_once_in_one_shape_of_batch(make_examples: Make) -> None:
    examples = make_examples([9, 3, 30, 5, 9, 300, 4])
    train = _loader(examples, 3)
    loader = EvalLoader(examples, batch_size=3, pad_id=0, lengths=train.lengths)
    batches: list[Any] = list(loader)
    assert len(loader) == len(batches) == 3
    assert sorted(i for k in range(3) for i in loader.rows(k)) == list(range(7))
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
        with pytest.raises(UserError, match="needs 19 positions"):
            make(make_examples([4, 20]), lengths=[8])
    with pytest.raises(UserError, match="seed: -1"):
        _loader(make_examples([4]), seed=-1)
    with pytest.raises(IndexError):
        _loader(make_examples([4]))[-1]
    with pytest.raises(IndexError):
        EvalLoader(make_examples([4]), batch_size=4, pad_id=0)[1]
