"""Steps whose loss or gradient is not finite: stopped at, with all that was before them, or skipped without a trace."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from lodos.train import nonfinite, trainer
from lodos.train.config import CheckpointerConfig
from lodos.train.nonfinite import NonFiniteError
from lodos.train.step import batch_weight
from lodos.tree import named_leaves
from tiny_training import make_batch, table_loss

KEY = jax.random.key(5)


class Loader:
    """Batch k depends on k alone; those in `bad` have a weight that is not finite."""

    def __init__(self, *bad: int):
        self.bad = bad

    def origins(self, k: int) -> list[list[str]]:
        return [[f"rows.json, row {8 * k + row}"] for row in range(8)]

    def batch(self, k: int) -> Any:
        batch = make_batch(k)
        if k in self.bad:
            batch.loss_weight[2, 3] = np.nan
        return batch

    def iter_from_step(self, step: int) -> Iterator[Any]:
        while True:
            yield self.batch(step)
            step += 1


class Without:
    """The batches without those in `left_out`."""

    def __init__(self, *left_out: int):
        self.left_out = left_out

    def __iter__(self) -> Iterator[Any]:
        return (make_batch(k) for k in range(100) if k not in self.left_out)


def numbers(state: Any) -> dict[str, np.ndarray]:
    """Parameters and optimizer, the schedule's count among them."""
    return {name: np.asarray(leaf) for name, leaf in named_leaves((state.trainable, state.opt_state)).items()}


def equal(one: Any, other: Any) -> bool:
    return all(np.array_equal(value, numbers(other)[name]) for name, value in numbers(one).items())


@pytest.mark.parametrize("late", [False, True], ids=["waits", "dispatches ahead"])
def test_stop_saves_the_state_before_the_step_and_its_batch(
    table: Any, make_table_trainer: Any, tmp_path: Path, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_dispatches_ahead", lambda: late)
    stopping = make_table_trainer(steps=9)
    with pytest.raises(
        NonFiniteError, match=r"Step 4: the loss is nan.* after step 3 is saved.*row 24; rows.json"
    ) as error:
        stopping.train(stopping.initial_state(KEY, model=table), Loader(3))
    assert "on_nonfinite: skip" in str(error.value)
    resumed = make_table_trainer(steps=9).initial_state(KEY, model=table)
    assert int(resumed.step) == 3
    straight = make_table_trainer(steps=9, id="straight")
    state = straight.initial_state(KEY, model=table)
    for k in range(3):
        state, _ = straight.train_step(state, make_batch(k))
    assert equal(resumed, state)
    with np.load(tmp_path / "run" / "nonfinite" / "step-4.npz") as dumped:
        assert sorted(dumped) == ["loss_weight", "positions", "segment_ids", "targets", "tokens"]
        assert np.array_equal(dumped["tokens"], make_batch(3).tokens)
        assert np.isnan(dumped["loss_weight"][2, 3])
    found = json.loads((tmp_path / "run" / "nonfinite" / "step-4.json").read_text(encoding="utf-8"))
    assert found == {"step": 4, "rows": Loader().origins(3)}


@pytest.mark.parametrize("rows_at_once", [-1, 2], ids=["whole", "accumulated"])
def test_skip_leaves_every_number_as_if_the_batch_had_not_been_there(
    table: Any, make_table_trainer: Any, rows_at_once: int
) -> None:
    settings = dict(steps=6, per_device_parallelism=rows_at_once, on_nonfinite="skip")
    skipping = make_table_trainer(id="skipping", **settings)
    reports: list[Any] = []
    skipping.add_report_hook(reports.append)
    state = skipping.train(skipping.initial_state(KEY, model=table), Loader(1, 4))
    assert (int(state.step), skipping.skipped) == (6, 2)
    assert [report.step for report in reports if not report.finite] == [2, 5]
    without = make_table_trainer(id="without", **settings)
    expected = without.initial_state(KEY, model=table)
    for _, batch in zip(range(4), Without(1, 4), strict=False):
        expected, _ = without.train_step(expected, batch)
    assert equal(state, expected)


def test_skip_gives_up_after_its_bound(table: Any, make_table_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonfinite, "MOST_SKIPPED", 2)
    monkeypatch.setattr(nonfinite, "AMONG", 4)
    rarely = make_table_trainer(steps=12, id="rarely", on_nonfinite="skip")
    rarely.train(rarely.initial_state(KEY, model=table), Loader(0, 1, 4, 5, 8, 9))
    assert rarely.skipped == 6
    often = make_table_trainer(steps=12, id="often", on_nonfinite="skip")
    with pytest.raises(NonFiniteError, match=r"Step 6.*Of the last 4 steps 3 were skipped.*gives up.*row 40"):
        often.train(often.initial_state(KEY, model=table), Loader(2, 4, 5))


def plain_steps(trainer: Any, state: Any, batches: Any) -> Any:
    """Parameters and optimizer after steps that know nothing of numbers that are not finite."""

    @jax.jit
    def step(trainable: Any, opt_state: Any, batch: Any) -> Any:
        total = batch_weight(batch)
        grads = jax.grad(lambda table: table_loss(table, batch) * (batch_weight(batch) / total))(trainable)
        updates, opt_state = trainer.optimizer.update(grads, opt_state, trainable)
        return optax.apply_updates(trainable, updates), opt_state

    trainable, opt_state = state.trainable, state.opt_state
    for batch in batches:
        trainable, opt_state = step(trainable, opt_state, batch)
    return trainable, opt_state


def test_where_nothing_is_amiss_both_give_the_bits_of_steps_that_do_not_look(
    table: Any, make_table_trainer: Any
) -> None:
    plain = make_table_trainer(steps=3, id="plain")
    expected = plain_steps(plain, plain.initial_state(KEY, model=table), [make_batch(k) for k in range(3)])
    for choice in ("stop", "skip"):
        chosen = make_table_trainer(steps=3, id=choice, on_nonfinite=choice)
        state = chosen.train(chosen.initial_state(KEY, model=table), Loader())
        found = named_leaves((state.trainable, state.opt_state))
        assert all(np.array_equal(leaf, found[name]) for name, leaf in named_leaves(expected).items())


@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_the_host_asks_for_a_steps_numbers_once_and_after_the_next_is_on_its_way(
    table: Any, make_table_trainer: Any, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    monkeypatch.setattr(trainer, "_dispatches_ahead", lambda: True)
    chosen = make_table_trainer(steps=4, on_nonfinite=choice, checkpointer=CheckpointerConfig(save_interval="1d"))
    state = chosen.initial_state(KEY, model=table)
    order: list[str] = []
    train_step, device_get = chosen.train_step, jax.device_get

    def noted_step(*args: Any) -> Any:
        order.append("dispatched")
        return train_step(*args)

    def noted_get(value: Any) -> Any:
        order.append("asked")
        return device_get(value)

    monkeypatch.setattr(chosen, "train_step", noted_step)
    monkeypatch.setattr(jax, "device_get", noted_get)
    monkeypatch.setattr(jax, "block_until_ready", lambda _: pytest.fail("waited for the device"))
    chosen.train(state, Loader())
    assert order == ["dispatched", *["dispatched", "asked"] * 3, "asked"]


def test_a_disk_that_refuses_the_state_before_the_step_hides_no_reason(
    table: Any, make_table_trainer: Any, tmp_path: Path
) -> None:
    place = CheckpointerConfig(save_interval="1d", base_path=str(tmp_path / "disk" / "checkpoints"))
    stopping = make_table_trainer(steps=9, checkpointer=place)
    state = stopping.initial_state(KEY, model=table)
    (tmp_path / "disk").write_text("no folder any more", encoding="utf-8")
    with pytest.raises(NonFiniteError, match=r"Step 4: the loss is nan.*after step 3 could not be saved: .*row 24;"):
        stopping.train(state, Loader(3))
