"""A run that is killed where it hurts, by a real SIGKILL, leaves in the end what an undisturbed one leaves."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.config_parsing import dump_config
from lodos.places.manifest import problems
from lodos.tracking.jsonl import read_records
from lodos.train.config import CheckpointerConfig
from train_args import named

# Kills itself, as the name of the moment says, when the checkpoint of step 4 is being saved.
KILLED = """
import os, signal, sys
from lodos.train import checkpoint, checkpoint_folder, trainer

moment = sys.argv.pop()
die = lambda: os.kill(os.getpid(), signal.SIGKILL)

def at(owner, name, before):
    real = getattr(owner, name)
    def patched(self, step, *args, **kwargs):
        if before and step == 4: die()
        found = real(self, step, *args, **kwargs)
        if not before and step == 4: die()
        return found
    setattr(owner, name, patched)

folder = checkpoint_folder.CheckpointFolder
if moment == "written, not committed": at(folder, "commit", True)
if moment == "just committed":
    # Nothing else of this step is done: the run waits for the checkpoint, and dies.
    save = checkpoint.Checkpointer.save
    def patched(self, state):
        save(self, state)
        if int(state.step) == 4:
            self.wait()
            die()
    checkpoint.Checkpointer.save = patched
if moment == "manifest, not renamed":
    real = checkpoint_folder.move_whole
    checkpoint_folder.move_whole = lambda source, place: die() if place.name == "4" else real(source, place)

from lodos.cli import main
sys.exit(main(["train", sys.argv[1]]))
"""


def outcome(run: Path) -> tuple[Any, ...]:
    """What a run leaves, of which nothing depends on the time or the run's name."""
    files = {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(run.rglob("*.safetensors"))
        if "train_state" not in path.parts
    }
    records = read_records(run / "log.jsonl")
    numbers = [(one["step"], key, one[key]) for one in records for key in ("train/loss", "eval/loss") if key in one]
    return files, numbers


MOMENTS = ["just committed", "written, not committed", "manifest, not renamed"]


@pytest.mark.parametrize(
    "moment", [MOMENTS[0], *(pytest.param(moment, marks=pytest.mark.long) for moment in MOMENTS[1:])]
)
def test_a_kill_around_the_commit_of_a_checkpoint_loses_nothing(args: TrainArgs, tmp_path: Path, moment: str) -> None:
    settings: Any = dict(steps_per_eval=2, checkpointer=CheckpointerConfig(save_interval=2), num_train_steps=6)
    args = dataclasses.replace(named(args, "straight", **settings), hf_save_steps=2, save_merged=True)
    straight = train(args)
    killed = named(args, "killed")
    (tmp_path / "killed.yaml").write_text(dump_config(killed), encoding="utf-8")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed.yaml"), moment]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert process.returncode == -9, process.stderr
    run = Path(str(killed.trainer.run_folder))
    assert (run / "train_state" / "4").exists() == (moment == "just committed")
    assert not (run / "peft" / "step-4").exists() or moment != "just committed"
    resumed = train(killed)
    assert resumed.step == 6
    assert outcome(run) == outcome(Path(str(straight.config.trainer.run_folder)))
    assert {"step-2", "step-4", "step-6", "best"} == {path.name for path in (run / "peft").iterdir()}
    assert sorted(path.name for path in (run / "train_state").iterdir()) == ["4", "6"]
    assert all(problems(path) == [] for path in [*(run / "peft").iterdir(), *(run / "merged").iterdir()])
