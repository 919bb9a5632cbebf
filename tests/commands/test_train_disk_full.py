"""A disk that is full, wherever in a run that is: no traceback, what is whole stays whole, and with room it goes on to
the bits of a run that always had it."""

import contextlib
import dataclasses
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.config_parsing import dump_config
from lodos.errors import NOT_SAVED
from lodos.places.manifest import problems
from lodos.tracking.jsonl import read_records
from lodos.train.config import CheckpointerConfig
from train_args import named

STEPS = 6


@contextlib.contextmanager
def disk_of(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of this size, which its folder leads to; it is given room by `make_room`."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "lodos", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only who may mount a file system can have one that is full")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_room(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)


def written(args: TrainArgs, run_dir: Path, path: Path) -> TrainArgs:
    """A run that saves everything every second step."""
    args = named(args, "full", run_dir=str(run_dir), checkpointer=CheckpointerConfig(save_interval=2))
    args = dataclasses.replace(args, hf_save_steps=2, save_merged=True)
    path.write_text(dump_config(args), encoding="utf-8")
    return args


def run(config: Path, *, cache: Path | None = None, limit: int | None = None) -> "subprocess.CompletedProcess[str]":
    environment = os.environ if cache is None else {**os.environ, "LODOS_CACHE": str(cache)}
    # What Orbax, JAX and the log do with a limit is what they do with a full disk; SIGXFSZ is ignored by Python.
    limited = None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    command = [sys.executable, "-m", "lodos", "train", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, preexec_fn=limited)


def outcome(folder: Path) -> tuple[Any, ...]:
    adapter = (folder / "peft" / f"step-{STEPS}" / "adapter_model.safetensors").read_bytes()
    merged = (folder / "merged" / f"step-{STEPS}" / "model.safetensors").read_bytes()
    records = read_records(folder / "log.jsonl")
    return adapter, merged, [(one["step"], one["train/loss"]) for one in records if "train/loss" in one]


def assert_whole(folder: Path) -> None:
    """Whatever has its name is whole, and nothing is left of what has none."""
    kept = [*folder.glob("train_state/*"), *folder.glob("peft/*"), *folder.glob("merged/*")]
    assert not [path.name for path in kept if path.name.startswith(".")]
    assert all(problems(path) == [] for path in kept)


def assert_survives(args: TrainArgs, tmp_path: Path, kilobytes: int, expected: tuple[Any, ...]) -> str:
    """What became of the run on a disk of this size."""
    with disk_of(tmp_path / f"disk-{kilobytes}", kilobytes) as disk:
        config = tmp_path / f"{kilobytes}.yaml"
        folder = Path(str(written(args, disk / "runs", config).trainer.run_folder))
        done = run(config)
        assert not any(word in done.stderr for word in ("Traceback", "Exception ignored")), done.stderr
        assert done.returncode in (0, 1, NOT_SAVED), done.stderr
        assert_whole(folder)
        if done.returncode == NOT_SAVED and (folder / "log.jsonl").exists():
            assert "No space left on device" in done.stderr or "are free" in done.stderr, done.stderr
        make_room(disk)
        again = run(config)
        assert again.returncode == 0, again.stderr
        assert_whole(folder)
        assert outcome(folder) == expected
    return {0: "all saved", 1: "refused", NOT_SAVED: "not saved"}[done.returncode]


@pytest.fixture
def expected(args: TrainArgs, tmp_path: Path) -> tuple[Any, ...]:
    always = written(args, tmp_path / "runs", tmp_path / "always.yaml")
    train(always)
    return outcome(Path(str(always.trainer.run_folder)))


def test_a_disk_that_becomes_full_in_the_middle(args: TrainArgs, tmp_path: Path, expected: tuple[Any, ...]) -> None:
    assert assert_survives(args, tmp_path, 420, expected) == "not saved"


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
def test_a_disk_that_becomes_full_anywhere(
    args: TrainArgs, tmp_path: Path, expected: tuple[Any, ...], part: int
) -> None:
    """64 sizes, from next to nothing to enough. `pytest -s` shows what became of the runs."""
    for kilobytes in range(4 + 24 * part, 4 + 24 * 64, 24 * 8):
        print(f"\n{kilobytes} KB: {assert_survives(args, tmp_path, kilobytes, expected)}")


def test_a_limit_on_the_size_of_files(args: TrainArgs, tmp_path: Path) -> None:
    """Where nothing may be mounted: merged weights do not fit, adapters do, and a checkpoint may or may not: it is in
    as many files as Orbax makes of it that time."""
    config = tmp_path / "limited.yaml"
    folder = Path(str(written(args, tmp_path / "limited", config).trainer.run_folder))
    done = run(config, limit=40_000)
    assert done.returncode == NOT_SAVED, done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "train_state" / str(STEPS)).exists() != (f"the checkpoint of step {STEPS}" in done.stderr)
    assert f"the merged model of step {STEPS}" in done.stderr
    assert "Training goes on; the next save tries again" in done.stderr
    assert (folder / "peft" / f"step-{STEPS}").exists()
    assert_whole(folder)
