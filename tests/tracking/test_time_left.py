"""The time left is what a user would reckon from the steps they saw."""

import pytest

from lodos.tracking.time_left import TimeLeft, clock_face


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def run(time_left: TimeLeft, clock: Clock, seconds: list[float], *, first: int = 1, pauses: dict[int, float]) -> None:
    """Steps of these lengths, with pauses after some of them."""
    for step, took in enumerate(seconds, first):
        clock.now += took
        time_left.step_done(step, took)
        clock.now += pauses.get(step, 0.0)


def test_nothing_is_known_before_two_steps(clock: Clock) -> None:
    time_left = TimeLeft(10, clock=clock)
    assert time_left.seconds() is None
    time_left.step_done(1, 30.0)
    assert time_left.seconds() is None


def test_the_first_step_and_other_compilations_do_not_count(clock: Clock) -> None:
    time_left = TimeLeft(100, clock=clock)
    run(time_left, clock, [60.0, 1.0, 1.0, 45.0, 1.0], pauses={})
    assert time_left.seconds() == pytest.approx(95.0)


def test_steps_of_different_lengths_count_by_their_mean(clock: Clock) -> None:
    time_left = TimeLeft(101, clock=clock)
    run(time_left, clock, [9.0, 1.0, 1.0, 4.0], pauses={})
    assert time_left.seconds() == pytest.approx(97 * 2.0)


def test_pauses_seen_so_far_are_expected_to_go_on(clock: Clock) -> None:
    """Twenty seconds of evaluation every ten steps of one second: three seconds a step."""
    time_left = TimeLeft(1001, clock=clock)
    run(time_left, clock, [1.0] * 101, pauses=dict.fromkeys(range(10, 100, 10), 20.0) | {100: 20.0})
    assert time_left.seconds() == pytest.approx(900 * 3.0, rel=1e-6)


def test_a_long_pause_neither_uses_up_the_time_left_nor_multiplies_it(clock: Clock) -> None:
    time_left = TimeLeft(1001, clock=clock)
    run(time_left, clock, [1.0] * 100, pauses={})
    before = time_left.seconds()
    clock.now += 500.0
    during = time_left.seconds()
    assert (before, during) == (pytest.approx(901.0), pytest.approx(900.0))


def test_between_two_steps_it_runs_down(clock: Clock) -> None:
    time_left = TimeLeft(10, clock=clock)
    run(time_left, clock, [8.0, 8.0], pauses={})
    clock.now += 3.0
    assert time_left.seconds() == pytest.approx(61.0)


def test_without_the_length_of_a_step_it_is_the_time_since_the_one_before(clock: Clock) -> None:
    time_left = TimeLeft(12, clock=clock)
    for step in (1, 2, 3):
        clock.now += 2.0
        time_left.step_done(step)
    assert time_left.seconds() == pytest.approx(18.0)


def test_a_run_that_got_slower_is_reckoned_by_its_recent_steps(clock: Clock) -> None:
    time_left = TimeLeft(1000, clock=clock)
    run(time_left, clock, [1.0] * 200 + [3.0] * 100, pauses={})
    assert time_left.seconds() == pytest.approx(700 * 3.0)


def test_at_the_end_nothing_is_left(clock: Clock) -> None:
    time_left = TimeLeft(3, clock=clock)
    run(time_left, clock, [1.0] * 3, pauses={3: 5.0})
    assert time_left.seconds() == 0.0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-:--:--"), (0.2, "0:00:00"), (65, "0:01:05"), (59.7, "0:01:00"), (442_800, "123:00:00")],
)
def test_the_clock_face(seconds: float | None, shown: str) -> None:
    assert clock_face(seconds) == shown
