"""Of what a run saves, what was asked for stays, and always the newest and the best."""

from pathlib import Path
from typing import Any

import pytest

from lodos.train.kept_exports import remove_old_exports


def left(folder: Path) -> list[str]:
    return sorted((path.name for path in folder.iterdir()), key=lambda name: (len(name), name))


@pytest.mark.parametrize(
    ("keep", "best", "expected"),
    [
        (2, None, [40, 50]),
        (1, 20, [20, 50]),
        (3, 50, [30, 40, 50]),
        (9, None, [10, 20, 30, 40, 50]),
        ([{"every": 20, "until": 30}, {"every": 40}], 30, [20, 30, 40, 50]),
        ([{"every": 1000}], None, [50]),
    ],
)
def test_the_newest_the_best_and_the_chosen_stay(
    tmp_path: Path, keep: Any, best: int | None, expected: list[int]
) -> None:
    for step in (10, 20, 30, 40, 50):
        (tmp_path / f"step-{step}" / "deep").mkdir(parents=True)
        (tmp_path / f"step-{step}" / "deep" / "file").touch()
    for other in ("best", "step-60", "step-x", "mine"):  # 60 is of a run that is done anew
        (tmp_path / other).mkdir()
    remove_old_exports(tmp_path, keep, step=50, best=best)
    steps = [f"step-{step}" for step in expected]
    assert set(left(tmp_path)) == {*steps, "best", "step-60", "step-x", "mine"}
    assert all((tmp_path / name / "deep" / "file").exists() for name in steps)


def test_what_is_being_sent_stays_for_now(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        (tmp_path / f"step-{step}").mkdir()
    remove_old_exports(tmp_path, 1, step=3, best=None, is_needed=lambda place: place.name == "step-1")
    assert left(tmp_path) == ["step-1", "step-3"]
    remove_old_exports(tmp_path, 1, step=3, best=None)
    assert left(tmp_path) == ["step-3"]


def test_a_run_that_is_done_anew_keeps_what_it_has_just_saved(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        (tmp_path / f"step-{step}").mkdir()
    remove_old_exports(tmp_path, 1, step=4, best=None)
    assert left(tmp_path) == ["step-4", "step-6", "step-8"]
    remove_old_exports(tmp_path / "nowhere", 1, step=4, best=None)
