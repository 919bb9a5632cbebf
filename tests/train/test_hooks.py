from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lodos.train.hooks import CutShort, Hooks, StepInfo, When
from lodos.train.reports import StepReport
from lodos.train.state import TrainerState
from tiny_training import make_batch


def at(step: int, *, loss: float | None = None) -> StepInfo:
    """What hooks are told after a step."""
    state = TrainerState(jnp.asarray(step), {}, optax.EmptyState(), jax.random.key(0), True)
    report = None if loss is None else StepReport(step, loss, 1.0, 1.0, 1, 0.1, 0.0)
    return StepInfo(state, step, report)


def calls(every: When, steps: range) -> list[int]:
    """At which steps a hook is called in a run of `steps`."""
    hooks, called = Hooks(), []
    hooks.add(lambda info: called.append(info.step), every=every)
    for step in steps:
        hooks.run(at(step))
    hooks.run(at(steps[-1]), end=True)
    return called


@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
def test_a_hook_runs_at_every_nth_step_and_at_the_end_each_once(every: int) -> None:
    expected = sorted({*range(every, 13, every), 12})
    assert calls(every, range(1, 13)) == expected


def test_a_hook_may_say_itself_when_it_is_due() -> None:
    assert calls(lambda step: step in (2, 3), range(1, 6)) == [2, 3, 5]


def test_after_resuming_the_same_steps_are_due() -> None:
    assert calls(4, range(1, 7)) + calls(4, range(7, 11)) == [4, 6, 8, 10]


def test_a_run_without_a_step_left_runs_every_hook_once() -> None:
    hooks, called = Hooks(), []
    hooks.add(lambda info: called.append((info.step, np.isnan(info.loss))), every=5)
    hooks.run(at(8), end=True)
    hooks.run(at(8), end=True)
    assert called == [(8, True)]


def test_hooks_run_in_the_order_they_were_added() -> None:
    hooks, called = Hooks(), []
    for name in "cab":
        hooks.add(lambda _, name=name: called.append(name))
    hooks.run(at(1))
    assert called == ["c", "a", "b"]


def test_each_hook_keeps_count_for_itself() -> None:
    hooks, called = Hooks(), []
    hooks.add(lambda info: called.append(("two", info.step)), every=2)
    hooks.add(lambda info: called.append(("three", info.step)), every=3)
    for step in (1, 2, 3):
        hooks.run(at(step))
    hooks.run(at(3), end=True)
    assert called == [("two", 2), ("three", 3), ("two", 3)]


def test_the_same_function_may_be_added_twice() -> None:
    hooks, called = Hooks(), []

    def hook(info: StepInfo) -> Any:
        called.append(info.step)

    hooks.add(hook, every=2)
    hooks.add(hook, every=3)
    for step in range(1, 7):
        hooks.run(at(step))
    assert called == [2, 3, 4, 6, 6]


def test_a_step_is_due_when_some_hook_is() -> None:
    hooks = Hooks()
    assert not any(hooks.due(step) for step in range(1, 13))
    hooks.add(print, every=4)
    hooks.add(print, every=6)
    assert [step for step in range(1, 13) if hooks.due(step)] == [4, 6, 8, 12]


@pytest.mark.parametrize("every", [0, -1])
def test_an_interval_below_one_is_refused(every: int) -> None:
    with pytest.raises(ValueError, match=f"every: {every}"):
        Hooks().add(print, every=every)


def test_a_hook_is_told_the_steps_loss() -> None:
    assert at(3, loss=1.5).loss == 1.5


def test_what_an_earlier_process_left_undone_is_made_up_for_once() -> None:
    hooks, called = Hooks(), []
    hooks.add(lambda _: called.append("done"), every=2, is_done=lambda step: step == 4)
    hooks.add(lambda _: called.append("undone"), every=4, is_done=lambda step: step < 4)
    hooks.add(lambda _: called.append("not due"), every=3, is_done=lambda step: False)
    hooks.add(lambda _: called.append("unknown"), every=2)
    assert hooks.undone(4)
    assert hooks.make_up(at(4))
    assert called == ["undone"]
    assert not hooks.undone(4)


def test_a_hook_that_is_cut_short_keeps_no_other_from_running() -> None:
    def cut_short(_: StepInfo) -> None:
        raise CutShort

    hooks, called = Hooks(), []
    hooks.add(cut_short, every=2)
    hooks.add(lambda info: called.append(info.step))
    assert hooks.run(at(1))
    assert not hooks.run(at(2))
    assert called == [1, 2]


def test_a_run_that_has_ended_does_nothing_again(table: Any, make_table_trainer: Any) -> None:
    done: list[int] = []
    for _ in range(2):
        trainer = make_table_trainer(steps=3)
        trainer.add_hook(lambda info: done.append(info.step), every=2, is_done=lambda step: step in done)
        trainer.train(trainer.initial_state(jax.random.key(0), model=table), [make_batch(k) for k in range(3)])
    assert done == [2, 3]
