"""Of several that want to write a folder one does, and a lock that a killed process left holds nobody up."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lodos.errors import UserError
from lodos.places import lock
from lodos.places.lock import LOCK, LOST_SECONDS, Owner, TakenError, only_writer
from lodos.places.objects import objects_below
from lodos.places.place import is_remote, place_of
from lodos.processes import Process, this_process
from stores import BUCKET, s3_store

HOLD = """
import sys, time
from lodos.places.lock import only_writer
from lodos.places.place import place_of
with only_writer(place_of(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_at_once_and_may_when_the_first_was_killed(tmp_path: Path) -> None:
    process = holder(tmp_path / "run")
    try:
        began = time.monotonic()
        with (
            pytest.raises(
                UserError, match=rf"run: another process of this machine is writing it: {process.pid}, since"
            ),
            only_writer(tmp_path / "run"),
        ):
            pytest.fail("both write")
        assert time.monotonic() - began < 1
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with only_writer(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text(encoding="utf-8"))["tag"] == this_process().tag
    assert not (tmp_path / "run").exists()


def test_of_many_at_once_one_writes(tmp_path: Path) -> None:
    inside, most, written, refused = [0], [0], [], []
    start, count = threading.Barrier(8), threading.Lock()

    def write(number: int) -> None:
        start.wait()
        try:
            with only_writer(tmp_path / "run"):
                with count:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                written.append(number)
                time.sleep(0.05)
                with count:
                    inside[0] -= 1
        except (UserError, TakenError):
            refused.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(written) + len(refused) == 8
    assert written


def foreign(folder: Path, *, seconds_ago: float, tag: str = "0123456789ab-1-77") -> Path:
    """The lock of a process of another machine, touched last so long ago."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    file.write_bytes(Owner("other", "tpu-vm-7", tag, time.time()).encode())
    when = time.time() - seconds_ago
    os.utime(file, (when, when))
    return file


def test_another_machines_lock_is_taken_over_when_nobody_touches_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.1)
    foreign(tmp_path, seconds_ago=LOST_SECONDS - 20)
    with (
        pytest.raises(TakenError, match=r"a process on tpu-vm-7 is writing it; its last sign of life came 1\d\d s ago"),
        only_writer(tmp_path),
    ):
        pytest.fail("both write")
    foreign(tmp_path, seconds_ago=LOST_SECONDS + 20)
    with only_writer(tmp_path):
        pass
    assert "tpu-vm-7 was writing it and has given no sign of life for 14" in caplog.text


def test_a_clock_that_is_wrong_makes_no_lock_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(tmp_path, seconds_ago=3)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 10**6)
    with pytest.raises(TakenError), only_writer(tmp_path):
        pytest.fail("both write")


@contextlib.contextmanager
def touched(file: Path, *, seconds: float) -> Iterator[None]:
    """Within it, its owner lives: it touches the lock, by a clock that is wrong by so much."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.02):
            when = time.time() + seconds
            os.utime(file, (when, when))

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("hours", [-5, 5], ids=["the clock was set forward", "the clock was set back"])
def test_a_clock_that_jumps_takes_no_lock_of_a_living_process_and_holds_none_of_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """What was touched a moment ago seems to be of five hours ago, or of five hours hence."""
    monkeypatch.setattr(lock, "LOST_SECONDS", 1.0)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 1.0)
    monkeypatch.setattr(lock, "_LOOK_SECONDS", 0.02)
    file = foreign(tmp_path, seconds_ago=-3600 * hours)
    with touched(file, seconds=3600 * hours), pytest.raises(TakenError, match="tpu-vm-7"), only_writer(tmp_path):
        pytest.fail("both write")
    with only_writer(tmp_path):
        assert json.loads(file.read_text(encoding="utf-8"))["tag"] == this_process().tag


def test_a_lock_that_is_let_go_while_it_is_watched_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_LOOK_SECONDS", 0.02)
    file = foreign(tmp_path, seconds_ago=LOST_SECONDS + 20)
    leaving = threading.Timer(0.2, file.unlink)
    leaving.start()
    with only_writer(tmp_path):
        leaving.join()


@pytest.mark.parametrize("goes", ["the lock", "the folder"])
def test_what_vanishes_while_its_owner_lives_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, goes: str
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    run = tmp_path / "runs" / "run"
    with only_writer(run):
        shutil.rmtree(run.parent) if goes == "the folder" else (run / LOCK).unlink()
        until = time.monotonic() + 5
        while "vanished" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(UserError, match="another process of this machine"), only_writer(run):
            pytest.fail("both write")
    assert not (run / LOCK).exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"id": 3}', b"\xff", b'{"id":"","host":"","tag":7,"since":"x"}']
)
def test_a_damaged_lock_is_of_nobody_known_and_is_not_for_ever(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.1)
    file = tmp_path / LOCK
    file.write_bytes(content)
    with pytest.raises(TakenError, match="a host unknown"), only_writer(tmp_path):
        pytest.fail("both write")
    os.utime(file, (1, 1))
    with only_writer(tmp_path):
        pass


def test_a_process_of_the_same_id_that_began_at_another_time_is_another(tmp_path: Path) -> None:
    me = this_process()
    assert not me.is_gone
    assert Process.of_tag(f".partial-{me.tag}.x") == me
    assert Process(me.machine, me.pid, me.began + 1).is_gone
    assert not Process("0123456789ab", 2**22 + 1, 5).is_gone  # who can say
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Process(me.machine, child.pid, 5).is_gone  # a zombie
    child.wait()
    assert Process(me.machine, child.pid, 0).is_gone


def test_a_lock_is_touched_while_its_process_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    with only_writer(tmp_path):
        os.utime(tmp_path / LOCK, (1, 1))
        until = time.monotonic() + 5
        while (tmp_path / LOCK).stat().st_mtime < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert (tmp_path / LOCK).stat().st_mtime > 2


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    with s3_store():
        yield


@pytest.mark.usefixtures("s3")
def test_on_a_store_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.3)
    run = place_of(f"s3://{BUCKET}/run")
    refused = pytest.raises(UserError, match="another process of this machine is writing it")
    with only_writer(run), refused, only_writer(run):
        pytest.fail("both write")
    assert not (run / LOCK).exists()
    (run / LOCK).write_bytes(Owner("other", "tpu-vm-7", "0123456789ab-1-77", 0.0).encode())
    with pytest.raises(TakenError, match=r"its last sign of life came \d s ago"), only_writer(run):
        pytest.fail("both write")
    monkeypatch.setattr(lock, "LOST_SECONDS", 0.0)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.1)
    with only_writer(run):
        pass
    assert is_remote(run)
    assert objects_below(run) == {}


@pytest.mark.usefixtures("s3")
def test_on_a_store_of_two_at_once_one_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 1.0)
    monkeypatch.setattr(lock, "_outlived", lambda place: None)  # neither has seen the other
    run, outcomes, start = place_of(f"s3://{BUCKET}/race"), [], threading.Barrier(2)

    def write() -> None:
        start.wait()
        try:
            with only_writer(run):
                time.sleep(2)
                outcomes.append("wrote")
        except TakenError:
            outcomes.append("refused")

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "wrote"]
