import json
from pathlib import Path

import pytest

from lodos.tracking.jsonl import JsonlTracker, read_records


def write_steps(path: Path, steps: range, *, resume_step: int = 0) -> None:
    tracker = JsonlTracker(path, resume_step=resume_step)
    for step in steps:
        tracker.log({"train/loss": 1 / step}, step=step)
    tracker.finish()


def steps_in(path: Path) -> list[int]:
    return [record["step"] for record in read_records(path)]


def test_each_line_is_json_with_its_step(tmp_path: Path) -> None:
    path = tmp_path / "run" / "log.jsonl"
    tracker = JsonlTracker(path)
    tracker.log_summary({"run": "naïve", "parameters": 7, "resumed_from_step": 0})
    tracker.log({"train/loss": 1.5, "train/grad_norm": 0.25}, step=1)
    tracker.finish()
    summary, step = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert summary["summary"] == {"run": "naïve", "parameters": 7, "resumed_from_step": 0}
    assert (step["step"], step["train/loss"], step["train/grad_norm"]) == (1, 1.5, 0.25)
    assert step["time"] >= summary["time"] > 1.7e9  # seconds since 1970


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    tracker = JsonlTracker(path)
    for step in (1, 2):
        tracker.log({"train/loss": 1.0}, step=step)
        assert steps_in(path) == list(range(1, step + 1))
    tracker.finish()


def test_numbers_that_are_not_finite_are_strings_that_float_reads(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    tracker = JsonlTracker(path)
    tracker.log({"a": float("nan"), "b": float("inf"), "c": float("-inf"), "d": 1.0}, step=1)
    tracker.finish()

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert [record[name] for name in "abcd"] == ["nan", "inf", "-inf", 1.0]
    assert float(record["c"]) == float("-inf")


def test_resuming_cuts_the_steps_that_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_steps(path, range(1, 8))
    write_steps(path, range(5, 7), resume_step=4)
    assert steps_in(path) == [1, 2, 3, 4, 5, 6]


def test_a_run_from_the_start_begins_a_new_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_steps(path, range(1, 8))
    write_steps(path, range(1, 3))
    assert steps_in(path) == [1, 2]


@pytest.mark.parametrize("keep", [1, 20])
def test_a_last_line_cut_short_is_ignored_and_not_built_on(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "log.jsonl"
    write_steps(path, range(1, 4))
    whole = path.read_bytes()
    last_line = whole.rindex(b"\n", 0, -1) + 1
    path.write_bytes(whole[: last_line + keep])
    assert steps_in(path) == [1, 2]
    write_steps(path, range(3, 5), resume_step=2)
    assert steps_in(path) == [1, 2, 3, 4]


def test_a_last_line_cut_within_a_character_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_steps(path, range(1, 3))
    path.write_bytes(path.read_bytes() + '{"step": 3, "run": "é'.encode()[:-1])
    assert steps_in(path) == [1, 2]


def test_no_file_has_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "log.jsonl") == []


DAMAGED = [
    b"",
    b"\xff\xfe",
    b'{"step": 2, "train/l',
    b"null",
    b"[3]",
    b'{"step": "2"}',
    b"{}",
    b"[" * 50_000,
    b'{"step": true}',
]


@pytest.mark.parametrize("line", DAMAGED)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_damaged_line_is_passed_over_and_said_and_the_file_kept(
    tmp_path: Path, line: bytes, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.jsonl"
    write_steps(path, range(1, 4))
    lines = path.read_bytes().split(b"\n")[:-1]
    lines.insert(place, line)
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert steps_in(path) == [1, 2, 3]
    write_steps(path, range(3, 5), resume_step=2)
    assert steps_in(path) == [1, 2, 3, 4]
    assert "log.jsonl: 1 lines are no records, and are passed over; it is kept as" in caplog.text
    kept = path.with_name("log.jsonl.corrupt").read_text(encoding="utf-8").split("\n")
    assert kept == [*(one.decode("utf-8", errors="backslashreplace") for one in lines), ""]
    caplog.clear()
    write_steps(path, range(5, 6), resume_step=4)
    assert caplog.text == ""
