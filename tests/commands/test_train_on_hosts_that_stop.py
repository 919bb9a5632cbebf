"""Hosts that are told to stop, or killed, at any moment: all end alike, and the run goes on to the bits of another."""

import dataclasses
import itertools
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from host_runs import STEPS, Undisturbed, command, numbers, written
from jobs import Job
from lodos.config import TrainArgs

_HEARTBEAT_SECONDS, _LOST_SECONDS = 20, 90
"""After how long a silent host is taken for lost, where one is killed, and within which the other has ended. Elsewhere
the usual time is given: on a machine that is busy, hosts that are well are silent for long."""


def _job(config: Path, folder: Path, *, kills: bool = False) -> Job:
    impatient = ["--trainer.distributed.heartbeat_timeout", str(_HEARTBEAT_SECONDS)] if kills else []
    return Job(folder, [*command(config), *impatient], hosts=2, devices=4)


def _said(job: Job) -> str:
    return "\n\n".join(host.said for host in job.hosts)


def _stopped_at(run: Path, said: str, *, folders: Sequence[str] = ("peft",)) -> int | None:
    """The step at which all stopped, of which there is a whole checkpoint of all; None where none was done."""
    steps = sorted(int(folder.name) for folder in (run / "train_state").glob("*") if folder.name.isdecimal())
    if "Stopped at step " not in said:
        return None
    step = int(said.split("Stopped at step ")[1].split(".")[0])
    if step == 0:
        assert not steps or steps == [0]
        return 0
    assert steps[-1] == step
    parts = {part.name for part in (run / "train_state" / str(step)).glob("ocdbt.process_*")}
    assert parts == {"ocdbt.process_0", "ocdbt.process_1"}, "one of them was at another step"
    for folder in folders:
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
    base_args: TrainArgs, undisturbed: Undisturbed, tmp_path: Path
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


EVALUATING = """
import os, signal, sys
from lodos.cli import main
from lodos.data.batching.loader import EvalLoader

batches = EvalLoader.__iter__

def disturbed(loader):
    for index, batch in enumerate(batches(loader)):
        print(f"batch {index}", flush=True)
        if index == 0 and os.environ["JAX_PROCESS_ID"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        yield batch
    print("evaluated", flush=True)

EvalLoader.__iter__ = disturbed
sys.exit(main(sys.argv[1:]))
"""
"""`lodos train`, whose second host is sent a signal within each evaluation."""


def test_a_signal_within_an_evaluation_ends_it_after_the_same_batch(base_args: TrainArgs, tmp_path: Path) -> None:
    args = dataclasses.replace(base_args, validation=40, save_merged=False)
    config = written(args, "evaluating", num_train_steps=4, per_device_eval_parallelism=1)
    run = Path(base_args.trainer.run_dir) / config.stem
    with Job(tmp_path / "stopped", ["-c", EVALUATING, *command(config)[2:]], hosts=2) as job:
        assert job.statuses() == [143, 143], _said(job)
        batches = [host.said.count("batch ") for host in job.hosts]
        assert batches[0] == batches[1]
        assert not any("evaluated" in host.said for host in job.hosts)
        assert _stopped_at(run, job[0].said) == 2
    assert not any(name == "eval/loss" for _, name in numbers(run))
    with Job(tmp_path / "again", command(config), hosts=2) as job:
        assert job.statuses() == [0, 0], _said(job)
    assert {step for step, name in numbers(run) if name == "eval/loss"} == {2, 4}


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
    signum: signal.Signals, seed: int, base_args: TrainArgs, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """`pytest -s` shows the moments."""
    draw = random.Random(seed)

    def attempt(number: int) -> tuple[Path, Moment, str] | None:
        config = written(base_args, f"moment-{seed}-{number}", per_device_parallelism=1)
        with _job(config, tmp_path / f"disturbed-{number}", kills=signum == signal.SIGKILL) as job:
            moment = _disturbed(job, draw, signum, undisturbed.seconds / (1 + number))
            return (config, moment, job[0].said) if moment is not None else None

    config, moment, said = next(found for number in itertools.count() if (found := attempt(number)) is not None)
    run = undisturbed.run.parent / config.stem
    stopped = _stopped_at(run, said)
    at = "killed" if signum == signal.SIGKILL else "before the first step" if stopped is None else f"at step {stopped}"
    print(f"\n{signum.name} to host {moment.host} after {moment.seconds:.1f} s, {moment.phase}: {at}")
    _assert_ends_as(run, undisturbed.run, config, tmp_path / "again")


def _disturbed(job: Job, draw: random.Random, signum: signal.Signals, of_seconds: float) -> Moment | None:
    """Sends the signal to one host at a random moment; None where the run came to its end all the same."""
    job[0].wait_until_it_says("All 2 hosts are there")
    began, seconds, host = time.monotonic(), draw.uniform(0, of_seconds), draw.randrange(2)
    while time.monotonic() - began < seconds and all(host.process.poll() is None for host in job.hosts):
        time.sleep(0.02)
    moment = Moment(host, seconds, _phase(job[0].said))
    job.send(host, signum)
    if signum == signal.SIGKILL:
        if (status := job[1 - host].process.wait(timeout=_LOST_SECONDS)) == 0:
            return None
        assert status == 42, _said(job)
        assert f"host {host}" in job[1 - host].said.splitlines()[-1]
        return moment
    if (statuses := job.statuses()) == [0, 0]:
        return None
    assert statuses == [143, 143], _said(job)
    return moment


def _phase(said: str) -> str:
    if "Finished" in said:
        return "at the end"
    if "held-out loss" in said:
        return f"after {said.count('held-out loss')} evaluations"
    if "step 1/" in said:
        return "in the first steps"
    return "before the first step" if "\nRun " in said else "before the weights were there"
