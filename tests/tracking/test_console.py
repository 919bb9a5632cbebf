import io
import re
import time
from typing import Any

import pytest
from rich.console import Console

from lodos.tracking import console as console_module
from lodos.tracking.console import ConsoleTracker

METRICS = {
    "train/loss": 2.0,
    "train/learning_rate": 3e-4,
    "train/tokens_per_second": 12345.6,
    "train/trained_tokens_per_second": 2345.6,
}


def tracker_and_output(total: int, *, terminal: bool = False, start_step: int = 0) -> tuple[ConsoleTracker, Any]:
    output = io.StringIO()
    # An interactive terminal of a known kind, whatever the tests themselves run in.
    console = Console(file=output, force_terminal=terminal, width=160, highlight=False, _environ={"TERM": "xterm"})
    return ConsoleTracker(total, start_step=start_step, console=console), output


def test_without_a_terminal_a_step_is_a_plain_line() -> None:
    tracker, output = tracker_and_output(100)
    tracker.log(METRICS, step=1)
    tracker.finish()
    line = "step 1/100  loss 2.0000 (smoothed 2.0000)  lr 3.00e-04  12,346 tokens/s (2,346 trained)"
    assert output.getvalue().splitlines()[0] == line
    assert "\x1b" not in output.getvalue()
    assert "\r" not in output.getvalue()


def test_without_a_terminal_lines_are_some_seconds_apart_but_the_last_is_shown() -> None:
    tracker, output = tracker_and_output(50)
    for step in range(1, 51):
        tracker.log(METRICS, step=step)
    tracker.finish()
    assert re.findall(r"step (\d+)/50", output.getvalue()) == ["1", "50"]


def test_without_a_terminal_the_time_left_is_shown_once_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "SECONDS_BETWEEN_LINES", 0.0)
    tracker, output = tracker_and_output(10_000)
    for step in (1, 2, 3):
        tracker.log(METRICS, step=step)
        time.sleep(0.05)
    tracker.finish()
    first, *_, last = output.getvalue().splitlines()
    assert "left" not in first
    found = re.search(r"  (\d+):(\d\d):(\d\d) left$", last)
    assert found is not None
    hours, minutes, seconds = map(int, found.groups())
    assert 3600 * hours + 60 * minutes + seconds > 9_000 * 0.05


@pytest.mark.parametrize(("wait", "shown"), [(0.02, False), (0.5, True)])
def test_waiting_for_data_is_shown_where_it_matters(wait: float, shown: bool) -> None:
    tracker, output = tracker_and_output(100)
    tracker.log({**METRICS, "train/data_wait_seconds": wait, "train/step_seconds": 1.0}, step=1)
    tracker.finish()
    assert ("waited 0.50 of 1.00 s for data" in output.getvalue()) == shown


def test_every_evaluation_is_shown_with_the_best() -> None:
    tracker, output = tracker_and_output(30)
    for step, loss in ((10, 1.5), (20, 1.25), (30, 1.75)):
        tracker.log({"eval/loss": loss}, step=step)
    tracker.finish()
    assert output.getvalue().splitlines() == [
        "step 10/30  held-out loss 1.5000  (best 1.5000 at step 10)",
        "step 20/30  held-out loss 1.2500  (best 1.2500 at step 20)",
        "step 30/30  held-out loss 1.7500  (best 1.2500 at step 20)",
    ]


def test_a_nan_is_shown_and_never_the_best_after_a_number() -> None:
    tracker, output = tracker_and_output(30)
    for step, loss in ((10, 1.5), (20, float("nan"))):
        tracker.log({"eval/loss": loss}, step=step)
    tracker.finish()
    assert output.getvalue().splitlines()[-1] == "step 20/30  held-out loss nan  (best 1.5000 at step 10)"


def test_a_number_after_a_nan_is_the_best() -> None:
    tracker, output = tracker_and_output(30)
    for step, loss in ((10, float("nan")), (20, 1.5)):
        tracker.log({"eval/loss": loss}, step=step)
    tracker.finish()
    assert output.getvalue().splitlines()[-1] == "step 20/30  held-out loss 1.5000  (best 1.5000 at step 20)"


def test_the_loss_is_smoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "SECONDS_BETWEEN_LINES", 0.0)
    tracker, output = tracker_and_output(3)
    for step, loss in ((1, 2.0), (2, 1.0), (3, 1.0)):
        tracker.log({"train/loss": loss}, step=step)
    tracker.finish()
    assert re.findall(r"smoothed (\S+)\)", output.getvalue()) == ["2.0000", "1.9000", "1.8100"]


@pytest.mark.parametrize("resumed", [0, 40])
def test_the_summary_names_the_run_and_what_is_trained(resumed: int) -> None:
    tracker, output = tracker_and_output(100, start_step=resumed)
    facts = dict(run="mine", parameters=1_000_000, trainable_parameters=5_000, training_rows=1234, held_out_rows=56)
    tracker.log_summary({**facts, "steps": 100, "resumed_from_step": resumed})
    tracker.finish()
    text = output.getvalue()
    assert text.startswith("Run mine: ")
    assert "5,000 trainable parameters beside 1,000,000 (0.50 %)" in text
    assert "1,234 training and 56 held-out rows, 100 steps" in text
    assert ("resumed at step 40" in text) == (resumed == 40)


def test_on_a_terminal_there_is_a_bar_with_the_time_left() -> None:
    tracker, output = tracker_and_output(100, terminal=True)
    tracker.log({"eval/loss": 1.25}, step=0)
    for step in (1, 2, 3):
        tracker.log(METRICS, step=step)
        time.sleep(0.05)  # the time left follows from the steps so far
    tracker.finish()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue()).replace("\r", "\n").strip().splitlines()[-1]
    assert "3/100" in last
    assert "━" in last
    assert "loss 2.0000" in last
    assert "held-out 1.2500" in last
    assert re.search(r"\d:\d\d:\d\d", last)
    assert not re.search(r"^step 3/100  loss", last)  # the bar, not the plain line


def test_on_a_terminal_a_resumed_run_starts_where_it_stopped() -> None:
    tracker, output = tracker_and_output(100, terminal=True, start_step=40)
    tracker.finish()
    assert " 40/100" in output.getvalue()
