"""Real signals to a real `lodos train`, at any moment from its first import to its last upload."""

import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.config_parsing import dump_config
from lodos.places.manifest import problems
from lodos.tracking.jsonl import read_records
from train_args import named

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
BOUND_SECONDS = 180
"""Within which a tiny run has ended, on a machine that does much else."""

PAUSED = """
import os, signal, sys, time
from lodos import signals
signals.listen()

moment, number, times = sys.argv.pop(1), int(sys.argv.pop(1)), int(sys.argv.pop(1))

def tell():
    for _ in range(times):
        os.kill(os.getpid(), number)
        time.sleep(0.3 if times > 1 else 0)

def at(owner, name):
    real, told = getattr(owner, name), []
    def patched(*args, **kwargs):
        if not told:
            told.append(True)
            tell()
        return real(*args, **kwargs)
    setattr(owner, name, patched)

if moment == "importing": tell()
if moment == "tokenizing":
    from lodos.data.tokens.workers import Workers; at(Workers, "map")
    from lodos.data.tokens import tokenize; at(tokenize.ExampleTokenizer, "__call__")
if moment == "loading":
    from lodos.formats.hf import HFCheckpointConverter; at(HFCheckpointConverter, "load_pretrained")
if moment == "compiling":
    from lodos.train.trainer import Trainer; at(Trainer, "wait_until_compiled")
if moment == "evaluating":
    from lodos.train.trainer import Trainer; at(Trainer, "evaluate")
if moment == "saving":
    from lodos.train.checkpoint import Checkpointer; at(Checkpointer, "save")
if moment == "committing":
    from lodos.train import checkpoint_folder; at(checkpoint_folder, "seal_folder")
if moment == "exporting":
    from lodos.formats import safetensors_writer; at(safetensors_writer, "_write_tensor")
if moment == "merging":
    from lodos.formats import hf; at(hf, "write_sharded")
if moment == "ending":
    from lodos.commands import train; at(train, "_print_outcome")

from lodos.__main__ import main
main()
"""
"""`lodos train` that is sent a signal, from within, at a moment."""


def outcome(run: Path) -> Any:
    """What a run leaves, of which nothing depends on the time."""
    files = {path.name: path.read_bytes() for path in sorted((run / "peft" / "step-6").glob("*.safetensors"))}
    records = read_records(run / "log.jsonl")
    return files, [(one["step"], key, one[key]) for one in records for key in ("train/loss", "eval/loss") if key in one]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of compiled programs, for all the processes here."""
    return tmp_path_factory.mktemp("cache")


def everything(args: TrainArgs, name: str) -> tuple[TrainArgs, Path]:
    """A run that evaluates, saves and exports; and its config as a file."""
    args = dataclasses.replace(named(args, name), save_merged=True, hf_save_steps=2)
    path = Path(args.trainer.run_dir).parent / f"{name}.yaml"
    path.write_text(dump_config(args), encoding="utf-8")
    return args, path


def ended(command: list[str], cache: Path) -> tuple[int, str]:
    """The exit code and what was said of a process that ends by itself."""
    environment = {**os.environ, "LODOS_CACHE": str(cache)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=2 * BOUND_SECONDS
    )
    return done.returncode, done.stdout + done.stderr


def assert_ended_well(said: str, run: Path) -> None:
    """Without a traceback, without a lock, and with nothing half written that is taken for whole."""
    assert "Traceback" not in said, said
    assert "Exception ignored" not in said, said
    assert not (run / "lodos-lock.json").exists()
    for folder in [*run.glob("train_state/[0-9]*"), *run.glob("peft/step-*"), *run.glob("merged/step-*")]:
        assert problems(folder) == []


def stopped_at(said: str) -> int | None:
    found = re.search(r"Stopped at step (\d+)", said)
    return int(found[1]) if found else None


BEFORE, WITHIN, AFTER = "nothing to save", "saved", "all is done"
MOMENTS = {
    "importing": BEFORE,
    "tokenizing": BEFORE,
    "loading": BEFORE,
    "compiling": BEFORE,
    "evaluating": WITHIN,
    "saving": WITHIN,
    "exporting": WITHIN,
    "merging": WITHIN,
    "ending": AFTER,
}
IN_CI = [("importing", "SIGINT"), ("tokenizing", "SIGHUP"), ("merging", "SIGHUP"), ("ending", "SIGINT")]


@pytest.mark.parametrize(
    ("moment", "name"),
    [
        pytest.param(moment, name, marks=[] if (moment, name) in IN_CI else pytest.mark.long)
        for moment in MOMENTS
        for name in ("SIGINT", "SIGTERM", "SIGHUP")
    ],
)
def test_a_signal_at_each_moment(args: TrainArgs, cache: Path, moment: str, name: str) -> None:
    signum = signal.Signals[name]
    args, config = everything(args, "told")
    run = Path(str(args.trainer.run_folder))
    status, said = ended([sys.executable, "-c", PAUSED, moment, str(int(signum)), "1", "train", str(config)], cache)
    assert status == STATUS[signum], said
    assert_ended_well(said, run)
    saved = sorted(int(path.name) for path in run.glob("train_state/[0-9]*"))
    if MOMENTS[moment] == BEFORE:
        assert saved == []
        assert "Stopped at step" not in said
    if MOMENTS[moment] == WITHIN:
        assert stopped_at(said) == saved[-1] == 2
        assert (run / "peft" / "step-2").is_dir()
        assert not (run / "merged" / "step-2").exists()
    if MOMENTS[moment] == AFTER:
        assert saved[-1] == 6
        assert (run / "merged" / "step-6").is_dir()


@pytest.mark.parametrize(
    "moment", ["saving", *(pytest.param(m, marks=pytest.mark.long) for m in ("merging", "loading"))]
)
def test_a_second_signal_ends_it_at_once(args: TrainArgs, cache: Path, moment: str) -> None:
    args, config = everything(args, "twice")
    began = time.monotonic()
    command = [sys.executable, "-c", PAUSED, moment, str(int(signal.SIGTERM)), "2", "train", str(config)]
    status, said = ended(command, cache)
    assert status == 143, said
    assert "Stopped at step" not in said
    assert time.monotonic() - began < BOUND_SECONDS
    assert_ended_well(said, Path(str(args.trainer.run_folder)))


def test_a_checkpoint_is_saved_when_asked_for_and_the_run_goes_on(args: TrainArgs, cache: Path) -> None:
    args, config = everything(args, "asked")
    settings = ["--trainer.checkpointer.save_interval", "1d", "--trainer.checkpointer.keep", "5"]
    command = [sys.executable, "-c", PAUSED, "evaluating", str(int(signal.SIGUSR1)), "1", "train", str(config)]
    status, said = ended([*command, *settings], cache)
    assert status == 0, said
    assert "SIGUSR1: a checkpoint of step 3 is saved." in said
    saved = sorted(path.name for path in Path(str(args.trainer.run_folder)).glob("train_state/[0-9]*"))
    assert saved == ["3", "6"]


def test_an_output_that_nobody_reads_stops_the_run(args: TrainArgs, cache: Path) -> None:
    """`lodos train ... 2>&1 | head -n 1`."""
    args, config = everything(args, "head")
    command = [sys.executable, "-m", "lodos", "train", str(config)]
    environment = {**os.environ, "LODOS_CACHE": str(cache)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as run:
        assert run.stdout is not None
        read = run.stdout.readline()
        run.stdout.close()
        assert run.wait(timeout=BOUND_SECONDS) == 141
    assert "Traceback" not in read
    assert_ended_well("", Path(str(args.trainer.run_folder)))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_a_signal_at_any_moment_loses_nothing(args: TrainArgs, cache: Path, seed: int) -> None:
    """From the first millisecond; `pytest -s` shows the moments. Started again, it ends as an undisturbed run."""
    draw = random.Random(seed)
    signum = draw.choice(list(STATUS))
    straight = train(everything(args, "straight")[0])
    args, config = everything(args, "swept")
    run = Path(str(args.trainer.run_folder))
    command = [sys.executable, "-m", "lodos", "train", str(config)]
    seconds = draw.uniform(0.05, 1.0) if seed % 3 == 0 else draw.uniform(1.0, 15.0)
    environment = {**os.environ, "LODOS_CACHE": str(cache)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as job:
        time.sleep(seconds)
        is_living = job.poll() is None
        job.send_signal(signum)
        said, _ = job.communicate(timeout=BOUND_SECONDS)
    print(f"\n{signum.name} after {seconds:.2f} s: {job.returncode}, {said.splitlines()[-1:] or 'nothing said'}")
    assert job.returncode == (STATUS[signum] if is_living else 0), said
    assert_ended_well(said, run)
    status, said = ended(command, cache)
    assert status == 0, said
    assert outcome(run) == outcome(Path(str(straight.config.trainer.run_folder)))
