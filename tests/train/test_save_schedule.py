"""When checkpoints are written, and which stay."""

from typing import Any

import pytest

from lodos.errors import UserError
from lodos.train.config import CheckpointerConfig
from lodos.train.save_schedule import SaveSchedule, newest_kept, seconds_of


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_steps_are_counted() -> None:
    schedule = SaveSchedule(3, 2)
    assert [step for step in range(1, 10) if schedule.is_due(step)] == [3, 6, 9]


def test_time_counts_from_the_last_checkpoint_whatever_it_was_for() -> None:
    clock = Clock()
    schedule = SaveSchedule("1m", [{"every": 4}], clock=clock)
    due = []
    for step in range(1, 13):
        clock.now += 25
        if schedule.is_due(step):
            due.append(step)
            schedule.saved()
    # 75 seconds make step 3 due; 4, 8 and 12 are kept for good, and the time counts anew from each of them.
    assert due == [3, 4, 7, 8, 11, 12]


def test_the_first_entry_that_is_not_over_decides_what_stays() -> None:
    schedule = SaveSchedule(1, [{"every": 2, "until": 5}, {"every": 3, "until": 9}, {"every": 10}])
    assert [step for step in range(1, 31) if schedule.stays(step)] == [2, 4, 6, 9, 10, 20, 30]


def test_a_count_is_of_the_newest_and_a_list_is_beside_the_newest() -> None:
    assert (newest_kept(3), newest_kept([{"every": 5}])) == (3, 1)
    assert not any(SaveSchedule(1, 3).stays(step) for step in range(1, 20))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1d", 86400), ("2h 5s", 7205), (" 1h ", 3600)]
)
def test_times(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10", "10 parsecs", "m10", "0s", "30m1h", "-1m"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UserError, match="10m or 1h30m"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(save_interval=0), "save_interval: 0"),
        (dict(save_interval="later"), "save_interval: 'later'"),
        (dict(keep=0), "keep: 0"),
        (dict(keep=[{"until": 5}]), "every is None"),
        (dict(keep=[{"every": 0}]), "at least 1 step"),
        (dict(keep=[{"every": 5, "util": 50}]), "unknown util"),
        (dict(keep=[{"every": 5}, {"every": 50}]), "comes after all steps"),
        (dict(keep=[{"every": 5, "until": 50}, {"every": 50, "until": 20}]), "comes after all steps"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CheckpointerConfig(**settings)
