"""Hosts that are told to stop, or killed, at any moment: all end alike, and the run goes on to the bits of another."""

import dataclasses
import itertools
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from host_runs import STEPS, command, numbers, written
from jobs import Job
from lodos.config import TrainArgs

_HEARTBEAT_SECONDS, _LOST_SECONDS = 20, 90
"""After how long a silent host is taken for lost, where one is killed, and in which the other has ended: more than that,
on a machine that is busy. One that is so busy that a host is silent for long needs the usual time for heartbeats."""


def _job(config: Path, folder: Path, *, kills: bool = False) -> Job:
    impatient = ["--trainer.distributed.heartbeat_timeout", str(_HEARTBEAT_SECONDS)] if kills else []
    return Job(folder, [*command(config), *impatient], hosts=2, devices=4)


def _said(job: Job) -> str:
    return "\n\n".join(host.said for host in job.hosts)


def _stopped_at(run: Path, said: str) -> int | None:
    """The step at which all stopped, of which there is a whole checkpoint of all; None where none was done."""
    steps = sorted(int(folder.name) for folder in (run / "train_state").glob("*") if folder.name.isdecimal())
    if "Stopped at step " not in said:
        return None
    step = int(said.split("Stopped at step ")[1].split(".")[0])
    if step == 0:
        assert not steps or steps == [0]
        return 0
    assert steps[-1] == step
    parts = {part.name for part in (run / "train_state" / str(step) / "default").glob("ocdbt.process_*")}
    assert parts == {"ocdbt.process_0", "ocdbt.process_1"}, "one of them was at another step"
    for folder in ("peft", "merged"):
        assert (run / folder / f"step-{step}").is_dir()
    return step


def _assert_ends_as(run: Path, undisturbed: Path, config: Path, folder: Path) -> None:
    """Started again, the run ends with the bits of the other one."""
    with _job(config, folder) as job:
        assert job.statuses() == [0, 0], _said(job)
    assert numbers(run) == numbers(undisturbed)
    for file in (f"peft/step-{STEPS}/adapter_model.safetensors", f"merged/step-{STEPS}/model.safetensors"):
        assert (run / file).read_bytes() == (undisturbed / file).read_bytes()


def test_a_run_that_is_stopped_and_killed_ends_with_the_bits_of_another(
    base_args: TrainArgs, undisturbed: Any, tmp_path: Path
) -> None:
    """SIGTERM to the second host, then SIGKILL to each in turn, all while it evaluates or saves."""
    config = written(base_args, "disturbed", per_device_parallelism=1)
    run = undisturbed.run.parent / config.stem
    with _job(config, tmp_path / "stopped") as job:
        job[0].wait_until_it_says("held-out loss")
        job.send(1, signal.SIGTERM)
        assert job.statuses() == [143, 143], _said(job)
        assert _stopped_at(run, job[0].said) in range(2, STEPS)
    for killed in (1, 0):
        with _job(config, tmp_path / f"killed-{killed}", kills=True) as job:
            job[0].wait_until_it_says("held-out loss")
            job.send(killed, signal.SIGKILL)
            assert job[1 - killed].process.wait(timeout=_LOST_SECONDS) == 42, _said(job)
            assert f"host {killed} (" in job[1 - killed].said.splitlines()[-1]
    _assert_ends_as(run, undisturbed.run, config, tmp_path / "again")


@dataclasses.dataclass
class Moment:
    """When a host was told, or killed."""

    host: int
    seconds: float
    """After all hosts were there."""
    phase: str
    """What the first one was at."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("signum", "seed"),
    [(signal.SIGTERM, seed) for seed in range(20)] + [(signal.SIGKILL, seed) for seed in range(20, 26)],
)
def test_a_signal_at_any_moment(
    signum: signal.Signals, seed: int, base_args: TrainArgs, undisturbed: Any, tmp_path: Path
) -> None:
    """`pytest -s` shows the moments."""
    draw = random.Random(seed)
    for attempt in itertools.count():
        config = written(base_args, f"moment-{seed}-{attempt}", per_device_parallelism=1)
        with _job(config, tmp_path / f"disturbed-{attempt}", kills=signum == signal.SIGKILL) as job:
            moment = _disturbed(job, draw, signum, undisturbed.seconds / (1 + attempt))
            if moment is None:  # it was over before, or all but over: no moment
                assert job.statuses() == [0, 0], _said(job)
                continue
            if signum == signal.SIGKILL:
                status = job[1 - moment.host].process.wait(timeout=_LOST_SECONDS)
                if status == 0:
                    continue
                assert status == 42, _said(job)
                assert f"host {moment.host}" in job[1 - moment.host].said.splitlines()[-1]
            elif (statuses := job.statuses()) == [0, 0]:
                continue
            else:
                assert statuses == [143, 143], _said(job)
        break
    run = undisturbed.run.parent / config.stem
    stopped = _stopped_at(run, job[0].said)
    at = "killed" if signum == signal.SIGKILL else "before the first step" if stopped is None else f"at step {stopped}"
    print(f"\n{signum.name} to host {moment.host} after {moment.seconds:.1f} s, {moment.phase}: {at}")
    _assert_ends_as(run, undisturbed.run, config, tmp_path / "again")


def _disturbed(job: Job, draw: random.Random, signum: signal.Signals, of_seconds: float) -> Moment | None:
    """Sends the signal to one host at a random moment; None where the run has ended before."""
    job[0].wait_until_it_says("All 2 hosts are there")
    began, seconds = time.monotonic(), draw.uniform(0, of_seconds)
    while time.monotonic() - began < seconds:
        if any(host.process.poll() is not None for host in job.hosts):
            return None
        time.sleep(0.02)
    moment = Moment(draw.randrange(2), seconds, _phase(job[0].said))
    job.send(moment.host, signum)
    return moment


def _phase(said: str) -> str:
    if "Finished" in said:
        return "at the end"
    if "held-out loss" in said:
        return f"after {said.count('held-out loss')} evaluations"
    if "step 1/" in said:
        return "in the first steps"
    return "before the first step" if "\nRun " in said else "before the weights were there"
