"""Hosts end with one exit code, whenever a signal comes: each is a process that runs a script."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from jobs import Job
from lodos.errors import Stopped
from lodos.hosts import _hearing_signals
from lodos.signals import listening

SCRIPT = """
import dataclasses, os, signal, sys, time
from pathlib import Path
from lodos import hosts
from lodos.cli import run_script
from lodos.train.config import TrainerConfig

@dataclasses.dataclass(frozen=True)
class Args:
    file: str
    trainer: TrainerConfig = TrainerConfig()

def run(config: Args) -> None:
    while hosts.is_first() and not Path(config.file).exists():
        time.sleep(0.05)
    print("at the end", flush=True)

if (status := run_script(run)) == 0:
    os.kill(os.getpid(), signal.SIGTERM)
sys.exit(status)
"""
"""The first host waits for a file, all for each other; then each is sent a signal that comes too late."""


def _job(folder: Path, **options: object) -> Job:
    return Job(folder, ["-c", SCRIPT, "--file", folder / "file"], hosts=2, **options)  # pyright: ignore[reportArgumentType]


def test_a_wait_in_the_background_hears_signals() -> None:
    waits = threading.Event()
    sender = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM])
    sender.start()
    with listening(), pytest.raises(Stopped):
        _hearing_signals(waits.wait)
    waits.set()


def test_a_wait_in_the_background_gives_what_came_of_it() -> None:
    assert _hearing_signals(lambda: "a value") == "a value"
    with pytest.raises(KeyError, match="an error"):
        _hearing_signals(lambda: {}["an error"])


def test_a_signal_after_the_end_changes_no_exit_code(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with _job(tmp_path) as job:
        assert job.statuses(seconds=300) == [0, 0], [host.said for host in job.hosts]


REQUEST = """
from lodos import signals
from lodos.signals import StopRequest, listening

signals.listen()
signals.working()

def asked(run):
    def within(config: Args) -> None:
        with listening() as listener, listener.asking(StopRequest()):
            if not hosts.is_first():
                os.kill(os.getpid(), signal.SIGTERM)
        run(config)
    return within

if (status := run_script(asked(run))) == 0:
"""
"""Before that the second host is told to stop, when no step is left after which it could."""


def test_a_request_that_comes_after_the_last_step_changes_no_exit_code(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = SCRIPT.replace("\nif (status := run_script(run)) == 0:\n", REQUEST)
    assert script != SCRIPT
    with Job(tmp_path, ["-c", script, "--file", tmp_path / "file"], hosts=2) as job:
        assert job.statuses(seconds=300) == [0, 0], [host.said for host in job.hosts]


def test_a_host_that_waits_at_the_end_takes_the_others_along(tmp_path: Path) -> None:
    with _job(tmp_path) as job:
        job[1].wait_until_it_says("at the end")
        time.sleep(1)
        job.send(1, signal.SIGTERM)
        assert job.statuses(seconds=300) == [143, 143], [host.said for host in job.hosts]
        assert "host 1 (" in job[0].said.splitlines()[-1]


def test_hosts_that_are_told_different_things_at_once_end_alike(tmp_path: Path) -> None:
    with _job(tmp_path) as job:
        job[1].wait_until_it_says("at the end")
        job.send(0, signal.SIGINT)
        job.send(1, signal.SIGTERM)
        first, second = job.statuses(seconds=300)
        assert first == second
        assert first in (130, 143)


def test_a_host_that_waits_for_others_to_join_hears_signals(tmp_path: Path) -> None:
    with _job(tmp_path, starts=[0]) as job:
        job[0].wait_until_it_says("Waiting for 2 hosts")
        time.sleep(1)
        job.send(0, signal.SIGTERM)
        assert job.statuses(seconds=60) == [143], job[0].said
