"""The numbers of a step come late, in order and once; the device is not left waiting for the host to read them."""

import os
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.errors import UserError
from lodos.train import trainer as trainer_module
from lodos.train.config import CheckpointerConfig, TrainerConfig
from lodos.train.optim import OptimizerConfig
from lodos.train.reports import StepReport
from lodos.train.trainer import Trainer
from tiny_training import Batches, make_batch

KEY = jax.random.key(2)
SELDOM = CheckpointerConfig(save_interval=1000)


def events_of(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A list that fills with ("dispatch", step) and ("report", step) as the trainer goes."""
    events: list[tuple[str, int]] = []
    train_step = trainer.train_step

    def dispatch(state: Any, batch: Any) -> Any:
        events.append(("dispatch", sum(kind == "dispatch" for kind, _ in events) + 1))
        return train_step(state, batch)

    monkeypatch.setattr(trainer, "train_step", dispatch)
    trainer.add_report_hook(lambda report: events.append(("report", report.step)))
    return events


def run(trainer: Any, model: Any, loader: Any = None) -> Any:
    return trainer.train(trainer.initial_state(KEY, model=model), loader or Batches())


def poisoned(step: int) -> list[Any]:
    """Batches of which that of `step` has a loss that is not a number."""
    batches = [make_batch(k) for k in range(10)]
    batches[step - 1].loss_weight[0, 0] = np.nan
    return batches


def test_a_step_is_dispatched_before_the_numbers_of_the_one_before_are_fetched(
    table: Any, make_table_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_table_trainer(steps=4, checkpointer=SELDOM)
    events = events_of(trainer, monkeypatch)
    run(trainer, table)
    d, r = "dispatch", "report"
    assert events == [(d, 1), (d, 2), (r, 1), (d, 3), (r, 2), (d, 4), (r, 3), (r, 4)]


@pytest.mark.parametrize("ahead", [False, True])
def test_the_device_is_still_at_a_step_when_the_next_is_dispatched_but_for_a_cpu(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    def slow_loss(model: Any, batch: Any, key: Any = None) -> Any:
        # Some hundred milliseconds, of which dispatching is a hundredth.
        x = jax.lax.fori_loop(0, 8, lambda _, x: jnp.tanh(1e-3 * x @ x), jnp.ones((1200, 1200)) * jnp.mean(model))
        return jnp.sum(x)

    config = TrainerConfig(run_dir=str(tmp_path), num_train_steps=4, train_batch_size=2, checkpointer=SELDOM)
    trainer = Trainer(config, OptimizerConfig(type="sgd").build(4), slow_loss)
    assert not trainer_module._dispatches_ahead()
    if ahead:
        monkeypatch.setattr(trainer_module, "_dispatches_ahead", lambda: True)
    at_next_batch: list[bool] = []
    at_dispatch: list[bool] = []
    step: Any = trainer._step

    def dispatch(frozen: Any, batch: Any, trainable: Any, opt_state: Any, count: Any, *others: Any) -> Any:
        # Of the step before; its results become ready one after the other, and this is the one that is waited for.
        at_dispatch.append(not count.is_ready())
        return step(frozen, batch, trainable, opt_state, count, *others)

    def batches() -> Any:
        while True:
            # Asked for batch k + 2 the trainer has read the numbers of step k, and k + 1 is running.
            at_next_batch.append(trainer._reports.device_is_busy)
            yield {"x": np.ones((2, 3), np.float32)}

    monkeypatch.setattr(trainer, "_step", dispatch)
    run(trainer, jnp.ones((3,)), batches())
    assert at_next_batch == [False, True, True, True]
    assert at_dispatch == [False, ahead, ahead, ahead]


def test_reports_come_for_every_step_once_with_plain_numbers(table: Any, make_table_trainer: Any) -> None:
    trainer, reports = make_table_trainer(steps=5), []
    trainer.add_report_hook(reports.append)
    run(trainer, table)
    assert [report.step for report in reports] == [1, 2, 3, 4, 5]
    batch = make_batch(2)
    third = reports[2]
    assert third.trained_tokens == batch.loss_weight.sum()
    assert third.tokens == (np.asarray(batch.segment_ids) > 0).sum()
    assert all(report.seconds > 0 and report.data_wait_seconds >= 0 for report in reports)
    # Of a step alone it need not be so: what it waits for its batch is before the numbers of the step before come.
    assert sum(report.seconds for report in reports) > sum(report.data_wait_seconds for report in reports)
    for report in reports:
        assert all(type(getattr(report, name)) is float for name in ("loss", "grad_norm", "trained_tokens", "seconds"))
        assert type(report.tokens) is int


def test_late_numbers_are_those_of_steps_waited_for(table: Any, make_table_trainer: Any) -> None:
    def losses(every: int) -> list[tuple[int, float]]:
        trainer, found = make_table_trainer(steps=6, id=f"every-{every}"), []
        trainer.add_report_hook(lambda report: found.append((report.step, report.loss)))
        trainer.add_hook(lambda info: None, every=every)  # a hook that is due waits for the device
        run(trainer, table)
        return found

    assert losses(1) == losses(1000)


def test_before_a_hook_runs_every_report_up_to_its_step_has_come(table: Any, make_table_trainer: Any) -> None:
    trainer, events = make_table_trainer(steps=5, checkpointer=SELDOM), []
    trainer.add_report_hook(lambda report: events.append(("report", report.step)))
    trainer.add_hook(lambda info: events.append(("hook", info.step, info.report.step)), every=2)
    run(trainer, table)
    r, h = "report", "hook"
    assert events == [(r, 1), (r, 2), (h, 2, 2), (r, 3), (r, 4), (h, 4, 4), (r, 5), (h, 5, 5)]


def test_what_is_watched_is_of_the_model_after_the_step(table: Any, make_table_trainer: Any) -> None:
    def watch(model: Any) -> dict[str, Any]:
        return {"sum": jnp.sum(jnp.abs(model["table"]))}

    trainer = make_table_trainer(steps=3, watch=watch)
    reports: list[StepReport] = []
    after: list[float] = []
    trainer.add_report_hook(reports.append)
    trainer.add_hook(lambda info: after.append(float(watch(info.model)["sum"])))
    run(trainer, table)
    assert [report.watched["sum"] for report in reports] == pytest.approx(after, rel=1e-6)
    assert len(set(after)) == 3


@pytest.mark.parametrize("bad", [1, 3, 5])
def test_a_step_that_is_not_finite_is_reported_and_stops_the_run(table: Any, make_table_trainer: Any, bad: int) -> None:
    trainer = make_table_trainer(steps=5, checkpointer=SELDOM)
    reports, hooked = [], []
    trainer.add_report_hook(reports.append)
    trainer.add_hook(lambda info: hooked.append(info.step), every=1000)
    with pytest.raises(FloatingPointError, match=f"Step {bad}: the loss is nan"):
        run(trainer, table, poisoned(bad))
    assert [report.step for report in reports] == list(range(1, bad + 1))
    assert np.isnan(reports[-1].loss)
    # Not even the end's hooks, though a step may have been dispatched since. The state before it is saved, if any.
    assert hooked == []
    assert trainer._open_checkpointer().latest_step() == (bad - 1 or None)


def test_nothing_of_a_step_that_is_not_finite_is_saved(table: Any, make_table_trainer: Any) -> None:
    trainer = make_table_trainer(steps=9, checkpointer=CheckpointerConfig(save_interval=2))
    hooked: list[int] = []
    trainer.add_hook(lambda info: hooked.append(info.step), every=2)
    with pytest.raises(FloatingPointError, match="Step 4"):
        run(trainer, table, poisoned(4))
    assert hooked == [2]
    assert trainer._open_checkpointer().latest_step() == 3


def test_a_loader_that_ends_or_fails_leaves_no_step_untold(table: Any, make_table_trainer: Any) -> None:
    def failing() -> Any:
        yield make_batch(0)
        yield make_batch(1)
        raise OSError("disk on fire")

    for loader, error in (([make_batch(0), make_batch(1)], UserError), (failing(), OSError)):
        trainer, reports = make_table_trainer(id=error.__name__), []
        trainer.add_report_hook(reports.append)
        with pytest.raises(error):
            run(trainer, table, loader)
        assert [report.step for report in reports] == [1, 2]


def test_an_interrupted_run_tells_of_the_step_that_was_running(table: Any, make_table_trainer: Any) -> None:
    trainer, reports = make_table_trainer(steps=50, checkpointer=SELDOM), []

    def interrupt(report: StepReport) -> None:
        reports.append(report.step)
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    trainer.add_report_hook(interrupt)
    state = run(trainer, table)
    # Step 4 had been dispatched when the numbers of step 3 came.
    assert (int(state.step), trainer.interrupted, reports) == (4, True, [1, 2, 3, 4])
    assert trainer._open_checkpointer().latest_step() == 4


def test_a_signal_while_a_step_is_waited_for_is_heeded_before_the_next(table: Any, make_table_trainer: Any) -> None:
    trainer, reports = make_table_trainer(steps=50, checkpointer=SELDOM), []

    def batches() -> Any:
        for k in range(50):
            if k == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield make_batch(k)

    trainer.add_report_hook(lambda report: reports.append(report.step))
    state = run(trainer, table, batches())
    assert (int(state.step), trainer.interrupted, reports) == (3, True, [1, 2, 3])


def test_a_run_without_a_step_left_reports_nothing(table: Any, make_table_trainer: Any) -> None:
    run(make_table_trainer(), table)
    trainer, reports, hooked = make_table_trainer(), [], []
    trainer.add_report_hook(reports.append)
    trainer.add_hook(lambda info: hooked.append((info.step, info.report)), every=1000)
    run(trainer, table)
    assert (reports, hooked) == ([], [(5, None)])
