"""The run's folder goes while the run lives: removed, or its disk is read-only from one moment to the next."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lodos.commands import train as train_command
from lodos.commands.train import main, train
from lodos.config import TrainArgs
from lodos.config_parsing import dump_config
from lodos.errors import NOT_SAVED
from lodos.places import lock
from lodos.places.manifest import problems
from lodos.tracking.jsonl import read_records
from train_args import named


class Disturbed:
    """The batches; before that of a step something happens."""

    def __init__(self, loader: Any, step: int, happens: Callable[[], Any]):
        self._loader, self._step, self._happens = loader, step, happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def iter_from_step(self, step: int) -> Iterator[Any]:
        for batch in self._loader.iter_from_step(step):
            step += 1
            if step == self._step:
                self._happens()
            yield batch


def losses(run: Path) -> list[tuple[int, float]]:
    return [(one["step"], one["train/loss"]) for one in read_records(run / "log.jsonl") if "train/loss" in one]


def test_a_folder_that_is_removed_is_made_again_and_has_what_is_saved_later(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    straight = train(args)
    gone = named(args, "gone")
    run = Path(str(gone.trainer.run_folder))

    def remove() -> None:  # at once, whatever is written into it meanwhile
        shutil.rmtree(run.rename(run.with_name("leaving")))

    result = train(gone, witness=lambda loader, _: Disturbed(loader, 4, remove))
    assert "lodos-lock.json: has vanished while the run was writing there" in caplog.text
    assert (result.unsaved, result.stopped_by, result.step) == ((), 0, 6)
    folders = [run / "train_state" / "6", run / "peft" / "step-6"]
    assert [problems(folder) for folder in folders] == [[], []]
    weights = "adapter_model.safetensors"
    assert (result.adapter / weights).read_bytes() == (straight.adapter / weights).read_bytes()
    assert losses(run) == losses(Path(str(straight.config.trainer.run_folder)))
    assert main(["--config_path", str(run / "config.yaml")]) == 0


def test_a_folder_in_whose_place_is_a_read_only_one_costs_no_step(
    args: TrainArgs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = train(args)
    refused = named(args, "refused")
    config, run = tmp_path / "refused.yaml", Path(str(refused.trainer.run_folder))
    config.write_text(dump_config(refused), encoding="utf-8")
    command = ["mount", "-t", "tmpfs", "-o", "ro", "lodos", str(run)]

    def cover() -> None:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only who may mount a file system can have one that is read-only")

    witness = lambda loader, _: Disturbed(loader, 4, cover)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(train_command, "train", lambda config: train(config, witness=witness))
        try:
            assert main(["--config_path", str(config)]) == NOT_SAVED
        finally:
            subprocess.run(["umount", "-l", str(run)], check=False, capture_output=True)
    said = capsys.readouterr().err
    assert "Not saved, since the disk refused it: " in said
    assert "Next: lodos generate" not in said
    (run / lock.LOCK).unlink()  # its process would be gone
    again = train(refused)
    weights = "adapter_model.safetensors"
    assert (again.adapter / weights).read_bytes() == (straight.adapter / weights).read_bytes()
    assert losses(run) == losses(Path(str(straight.config.trainer.run_folder)))
