"""A run ends when its held-out loss has stopped falling, and where it would have ended without being stopped."""

from typing import Any

import pytest

from lodos.errors import UserError
from lodos.train.early_stopping import EarlyStopping, EarlyStoppingConfig
from lodos.train.evaluation import Evaluation

NAN = float("nan")


def ends_after(losses: list[float], *, before: int = 0, **config: Any) -> int | None:
    """After how many evaluations, one every second step, of which `before` were done by an earlier process."""
    evaluations = [Evaluation(2 * (i + 1), loss) for i, loss in enumerate(losses)]
    stopping = EarlyStopping(EarlyStoppingConfig(**config), every=2, before=evaluations[:before])
    for i, evaluation in enumerate(evaluations, 1):
        if i > before:
            stopping.observe(evaluation)
        if i >= before and stopping.is_over:
            return i
    return None


CASES = [
    ([3, 2, 1, 1, 1], dict(patience=2), 5),
    ([3, 2, 1, 1, 0.5], dict(patience=2), None),
    ([3, 2.9, 2.8, 2.7], dict(patience=2, min_delta=0.5), 3),
    ([3, 2.9, 2.4, 2.35, 2.3], dict(patience=2, min_delta=0.5), 5),
    ([NAN, NAN], dict(patience=2), 2),
    ([1, NAN, 0.5, NAN, NAN, 0.1], dict(patience=2), 5),
    ([1, 2], dict(patience=1), 2),
    ([float("inf"), 2], dict(patience=1), 1),
]


@pytest.mark.parametrize(("losses", "config", "after"), CASES)
def test_it_ends_after_so_many_evaluations_without_a_lower_loss(losses: Any, config: Any, after: int | None) -> None:
    assert ends_after(losses, **config) == after
    for before in range(len(losses)):  # whenever it was interrupted
        if after is None or before <= after:
            assert ends_after(losses, before=before, **config) == after


def test_other_evaluations_than_those_that_are_due_do_not_count() -> None:
    stopping = EarlyStopping(EarlyStoppingConfig(patience=2), every=10)
    for step, loss in ((10, 1.0), (13, 2.0), (15, 2.0), (20, 2.0), (20, 2.0), (25, 0.1), (30, 0.5)):
        stopping.observe(Evaluation(step, loss))
        assert not stopping.is_over
    for step in (40, 50):
        stopping.observe(Evaluation(step, 0.5))
    assert stopping.is_over


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match=r"patience: 0 must be a whole .*\nearly_stopping\.min_delta: -1"):
        EarlyStoppingConfig(patience=0, min_delta=-1)
    with pytest.raises(UserError, match="min_delta: nan"):
        EarlyStoppingConfig(patience=1, min_delta=NAN)
    for values in ({}, {"min_delta": 1.0}, {"patience": 2, "mindelta": 1}, {"patience": 2.5}):
        with pytest.raises(UserError, match="early_stopping"):
            EarlyStoppingConfig.parse(values)
    assert EarlyStoppingConfig.parse({"patience": 2}) == EarlyStoppingConfig(patience=2, min_delta=0.0)
