"""A step is compiled once for each shape that is to be expected, and anything more is said."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from lodos.train.compilations import Compilations
from tiny_training import make_batch

KEY = jax.random.key(2)


class Loader:
    """Batches of given lengths, which may be declared."""

    def __init__(self, *lengths: int, declared: tuple[int, ...] | None = None, rows: int = 8):
        self._batches = [make_batch(k, length=length, rows=rows) for k, length in enumerate(lengths)]
        if declared is not None:
            self.lengths = declared

    def __iter__(self) -> Any:
        return iter(self._batches)


@pytest.mark.parametrize(
    ("loader", "count", "warnings"),
    [
        (Loader(12, 12, 12, 12), 1, []),
        (Loader(12, 16, 12, 16, declared=(12, 16)), 2, []),
        (Loader(12, 16, 12, 16), 2, [r"Step 2: .*shape \[8, 16\] after \[8, 12\]"]),
        (Loader(12, 16, 20, 16, declared=(12, 16)), 3, [r"Step 3: .*shape \[8, 20\] after \[8, 12\], \[8, 16\]"]),
    ],
)
def test_a_shape_that_was_not_to_be_expected_is_named(
    table: Any,
    make_table_trainer: Any,
    caplog: pytest.LogCaptureFixture,
    loader: Loader,
    count: int,
    warnings: list[str],
) -> None:
    trainer = make_table_trainer(steps=4)
    with caplog.at_level("WARNING", logger="lodos"):
        trainer.train(trainer.initial_state(KEY, model=table), loader)
    assert trainer._compilations.count == count
    said = [record.getMessage() for record in caplog.records if record.name == "lodos.train.compilations"]
    assert len(said) == len(warnings)
    for text, pattern in zip(said, warnings, strict=True):
        assert re.search(pattern, text)


def test_saving_and_evaluating_compile_nothing_more(
    table: Any, make_table_trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_table_trainer(steps=4)
    trainer.add_hook(lambda info: trainer.evaluate(info.model, [make_batch(9)]))
    trainer.train(trainer.initial_state(KEY, model=table), Loader(12, 12, 12, 12))
    assert trainer._compilations.count == 1
    assert not caplog.records


def test_a_step_is_compiled_ahead_and_not_again(
    table: Any, make_table_trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_table_trainer(steps=3)
    shapes = jax.eval_shape(lambda: table)
    trainer.compile_ahead(KEY, model=shapes, batch=make_batch(0))
    state = trainer.initial_state(KEY, model=table)
    trainer.wait_until_compiled()
    assert trainer._compilations.count == 1
    state = trainer.train(state, Loader(12, 12, 12))
    assert int(state.step) == 3
    assert trainer._compilations.count == 1
    assert not caplog.records


def test_a_shape_that_was_not_compiled_ahead_is_named(
    table: Any, make_table_trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_table_trainer(steps=2)
    trainer.compile_ahead(KEY, model=table, batch=make_batch(0))
    trainer.train(trainer.initial_state(KEY, model=table), Loader(16, 16))
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("Step 1: compiled again, for a batch of shape [8, 16] after [8, 12].")


def test_what_goes_wrong_when_compiling_ahead_is_raised_by_training(make_table_trainer: Any, table: Any) -> None:
    trainer = make_table_trainer(steps=2)
    trainer.compile_ahead(KEY, model={"another": jnp.zeros(3)}, batch=make_batch(0))
    with pytest.raises(KeyError, match="table"):
        trainer.train(trainer.initial_state(KEY, model=table), Loader(12, 12))


def test_a_run_that_is_done_does_not_wait_for_the_compiler(table: Any, make_table_trainer: Any) -> None:
    trainer = make_table_trainer(steps=2)
    state = trainer.train(trainer.initial_state(KEY, model=table), Loader(12, 12))
    trainer.compile_ahead(KEY, model={"another": jnp.zeros(3)}, batch=make_batch(0))  # fails, which nobody asks for
    assert trainer.train(state, Loader()).step == 2


def test_a_second_compilation_for_the_same_shape_is_named(caplog: pytest.LogCaptureFixture) -> None:
    compilations = Compilations("double")
    batch = jnp.ones((2, 3))

    def double(x: Any) -> Any:
        return 2 * x

    jitted = jax.jit(double)
    for step, x in enumerate((batch, batch, batch.astype(jnp.bfloat16)), start=1):
        with compilations.watching(step, x):
            jitted(x)
    assert compilations.count == 2
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("Step 3: compiled again for a batch of shape [2, 3].")
