"""The seconds that a step waits for its batch are measured, logged, and shown when they matter."""

import io
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from lodos.commands.loaders import Loaders
from lodos.commands.run_log import RunLog
from lodos.config import TrainArgs
from lodos.data.batching.loader import TrainLoader
from lodos.data.examples import TokenizedExample
from lodos.tracking.console import ConsoleTracker
from lodos.tracking.jsonl import read_records
from lodos.train import reports as reports_module
from lodos.train import trainer as trainer_module
from lodos.train.config import TrainerConfig
from lodos.train.hooks import StepInfo
from lodos.train.reports import Reports, StepReport
from tiny_training import make_batch

KEY = jax.random.key(2)


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        # The device is waited for after each step, for the hook's sake, so that it idles until the next batch comes.
        (1, [(3.0, 3.0), (2.0, 2.0), (5.0, 5.0)]),
        # A step is finished when its successor has been dispatched, and the device still had it to do until then.
        (3, [(3.0, 5.0), (0.0, 5.0), (0.0, 0.0)]),
    ],
)
def test_a_step_knows_how_long_the_device_waited_for_its_batch(
    model: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch, every: int, expected: list[tuple[float, float]]
) -> None:
    clock = Clock()
    monkeypatch.setattr(trainer_module, "time", clock)
    monkeypatch.setattr(reports_module, "time", clock)
    # Where a step is pending it is still running.
    monkeypatch.setattr(Reports, "device_is_busy", property(lambda reports: reports._pending is not None))

    def batches() -> Any:
        for step, seconds in enumerate((3.0, 2.0, 5.0)):
            clock.now += seconds
            yield make_batch(step)

    def save(_: StepInfo) -> None:
        clock.now += 7.0  # saving, evaluating: no step's time

    trainer = make_trainer(model, steps=3)
    reports: list[StepReport] = []
    trainer.add_report_hook(reports.append)
    trainer.add_hook(save, every=every)
    trainer.train(trainer.initial_state(KEY, model=model), batches())
    assert [(report.data_wait_seconds, report.seconds) for report in reports] == expected


def test_the_log_has_the_wait_of_each_step_and_how_full_batches_are(
    model: Any, make_trainer: Any, tmp_path: Any
) -> None:
    trainer = make_trainer(model, steps=2)
    trainer_config = TrainerConfig(id="run", run_dir=str(tmp_path), num_train_steps=2)
    args = TrainArgs(model_name_or_path="base", data="rows.json", trainer=trainer_config)
    examples = [TokenizedExample(np.arange(n, dtype=np.int32), np.arange(n) > 0, "rows.json", n) for n in (5, 9)]
    loader = TrainLoader(examples, batch_size=2, pad_id=0, seed=0, seq_len=16)
    with RunLog(args, Loaders(loader, None, frozenset(), {}), first_step=0) as log:
        log.start(model, trainer.is_trainable)
        trainer.add_report_hook(log.on_step)
        trainer.train(trainer.initial_state(KEY, model=model), [make_batch(0), make_batch(1)])
    summary, *steps = read_records(tmp_path / "run" / "log.jsonl")
    assert summary["summary"]["batch_efficiency"] == (4 + 8) / 16
    assert len(steps) == 2
    # The device idles until the first batch comes; at the second it may still be busy with the first.
    assert steps[0]["train/data_wait_seconds"] > 0
    assert all(0 <= step["train/data_wait_seconds"] < step["train/step_seconds"] for step in steps)


@pytest.mark.parametrize(("wait", "shown"), [(0.19, False), (0.21, True)])
def test_the_console_shows_a_wait_of_more_than_a_tenth_of_the_step(wait: float, shown: bool) -> None:
    output = io.StringIO()
    tracker = ConsoleTracker(1, console=Console(file=output, width=200, highlight=False))
    tracker.log({"train/loss": 2.0, "train/step_seconds": 2.0, "train/data_wait_seconds": wait}, step=1)
    tracker.finish()
    assert ("waited 0.21 of 2.00 s for data" in output.getvalue()) == shown


@pytest.mark.parametrize("efficiency", [{}, {"batch_efficiency": 0.9876}])
def test_the_summary_says_how_full_batches_are(efficiency: dict[str, float]) -> None:
    output = io.StringIO()
    tracker = ConsoleTracker(100, console=Console(file=output, width=300, highlight=False))
    facts = dict(run="r", parameters=1000, trainable_parameters=5, training_rows=9, held_out_rows=0, steps=100)
    tracker.log_summary({**facts, **efficiency, "resumed_from_step": 0})
    tracker.finish()
    assert ("batches 98.8 % full" in output.getvalue()) == bool(efficiency)
