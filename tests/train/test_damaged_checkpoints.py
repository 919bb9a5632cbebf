"""A checkpoint that is not as it was written is named, set aside and never trained on: the one before it is used."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lodos.errors import UserError
from lodos.places.manifest import MANIFEST, problems
from lodos.train.checkpoint_folder import CheckpointFolder
from lodos.train.config import CheckpointerConfig
from lodos.train.trainer import newest_step
from tiny_training import Batches

KEY = jax.random.key(2)


@pytest.fixture
def trained(table: Any, make_table_trainer: Any) -> Any:
    """A trainer with whole checkpoints of steps 2 and 4."""
    trainer = make_table_trainer(steps=4, checkpointer=CheckpointerConfig(save_interval=2))
    trainer.train(trainer.initial_state(KEY, model=table), Batches())
    return trainer


def damages(folder: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Ways to damage each file below a folder, for a copy of it."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, size = file.relative_to(folder).as_posix(), file.stat().st_size
        for place in sorted({0, size // 3, size - 1} - {-1}):
            yield f"{name}: bit of byte {place}", lambda copy, name=name, place=place: flip(copy / name, place)
        for length in sorted({0, size // 2, size - 1} - {-1, size}):
            yield f"{name}: cut to {length}", lambda copy, name=name, length=length: cut(copy / name, length)
        yield f"{name}: deleted", lambda copy, name=name: (copy / name).unlink()
    yield "all of it deleted", lambda copy: [shutil.rmtree(copy), copy.mkdir()]


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << place % 8
    file.write_bytes(content)


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


def test_whatever_is_damaged_in_the_newest_checkpoint_the_one_before_is_used(
    trained: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = trained.config.checkpoint_folder
    shutil.copytree(folder, tmp_path / "whole")
    ways = list(damages(folder / "4"))
    assert len(ways) > 60
    for name, damage in ways:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "whole", folder)
        damage(folder / "4")
        caplog.clear()
        assert newest_step(trained.config) == 2, name
        assert "train_state/4: not as it was written: " in caplog.text, name
        assert name.partition(":")[0] in caplog.text or name == "all of it deleted", name
        assert CheckpointFolder(folder).aside() == ["4.corrupt"], name
        assert newest_step(trained.config) == 2, name  # said once, and not looked at again


def test_the_run_goes_on_from_the_one_before_to_what_it_would_have_been(table: Any, make_table_trainer: Any) -> None:
    def trainer() -> Any:
        return make_table_trainer(steps=4, checkpointer=CheckpointerConfig(save_interval=2))

    straight = trainer()
    expected = straight.train(straight.initial_state(KEY, model=table), Batches())
    folder = straight.config.checkpoint_folder
    for aside in (["4.corrupt"], ["4.2.corrupt", "4.corrupt"]):
        flip(max((folder / "4").rglob("d/*"), key=lambda path: path.stat().st_size), 100)
        again = trainer()
        state = again.initial_state(KEY, model=table)
        assert int(state.step) == 2
        found = again.train(state, Batches())
        assert np.array_equal(found.model["table"], expected.model["table"])
        assert CheckpointFolder(folder).steps() == [2, 4]
        assert CheckpointFolder(folder).aside() == aside
    flip(next(path for path in (folder / "4").rglob("d/*")), 3)
    flip(folder / "2" / MANIFEST, 30)
    with pytest.raises(UserError, match=r"set aside: 2\.corrupt, 4\.2\.corrupt, 4\.3\.corrupt, 4\.corrupt"):
        newest_step(straight.config)


def test_a_run_of_which_no_checkpoint_is_whole_does_not_start_over_by_itself(
    trained: Any, table: Any, make_table_trainer: Any
) -> None:
    folder = trained.config.checkpoint_folder
    for step in ("2", "4"):
        (folder / step / MANIFEST).unlink()
    for _ in range(2):  # also when it is started again
        with pytest.raises(UserError, match=r"no checkpoint of this run is whole.*--trainer\.load_checkpoint false"):
            make_table_trainer(steps=4).initial_state(KEY, model=table)
    anew = make_table_trainer(steps=3, load_checkpoint=False)
    anew.train(anew.initial_state(KEY, model=table), Batches())
    assert newest_step(trained.config) == 3
    assert CheckpointFolder(folder).aside() == ["2.corrupt", "4.corrupt"]  # never deleted


def test_checkpoints_with_another_fingerprint_are_refused_also_without_their_metadata(
    trained: Any, table: Any, make_table_trainer: Any
) -> None:
    """Whatever is deleted of a checkpoint, no other configuration goes on from it."""
    known = make_table_trainer(steps=5, id="known")
    known.train(known.initial_state(KEY, model=table, fingerprint={"rate": 1}), Batches())
    folder = known.config.checkpoint_folder
    for file in list((folder / "5").rglob("*")):
        if file.is_file():
            copy = file.read_bytes()
            file.unlink()
            with pytest.raises(UserError, match="no checkpoint of this run is whole"):
                make_table_trainer(steps=5, id="known").initial_state(KEY, model=table, fingerprint={"rate": 2})
            shutil.move(folder / "5.corrupt", folder / "5")
            file.write_bytes(copy)
    assert problems(folder / "5") == []


def test_a_chosen_step_is_gone_on_from_and_those_after_it_go_with_the_first_new_one(
    trained: Any, table: Any, make_table_trainer: Any
) -> None:
    with pytest.raises(UserError, match=r"load_checkpoint_step: 3: .* has no whole .*There: 2, 4"):
        make_table_trainer(steps=6, load_checkpoint_step=3).initial_state(KEY, model=table)
    chosen = make_table_trainer(steps=6, load_checkpoint_step=2, checkpointer=CheckpointerConfig(save_interval=3))
    state = chosen.initial_state(KEY, model=table)
    assert int(state.step) == 2
    folder = CheckpointFolder(chosen.config.checkpoint_folder)
    assert folder.steps() == [2, 4]
    chosen.train(state, Batches())
    assert folder.steps() == [3, 6]


def test_the_checkpoint_before_goes_only_when_the_next_has_been_read_back(
    trained: Any, table: Any, make_table_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(trained.config.checkpoint_folder)
    again = make_table_trainer(steps=6, checkpointer=CheckpointerConfig(save_interval=2, keep=1))
    state = again.initial_state(KEY, model=table)
    checkpointer = again._open_checkpointer()
    read = checkpointer._read

    def lying(place: Any, wanted: Any) -> Any:
        found = read(place, wanted)
        assert folder.steps() == [2, 4]
        found["trainable"] = {name: -leaf for name, leaf in found["trainable"].items()}
        return found

    monkeypatch.setattr(checkpointer, "_read", lying)
    with pytest.raises(OSError, match=r"read back differently than written: trainable\.table"):
        again.train(state, Batches())
    assert folder.steps() == [2, 4]
    monkeypatch.undo()
    anew = make_table_trainer(steps=6, checkpointer=CheckpointerConfig(save_interval=2, keep=1))
    anew.train(anew.initial_state(KEY, model=table), Batches())
    assert folder.steps() == [6]


def test_what_killed_writers_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "train_state")
    for name in (
        "8",
        "8.corrupt",
        "mine",
        ".12.partial/d",
        ".12.partial.orbax-checkpoint-tmp",
        ".4.0123456789abcdef.partial",
    ):
        (tmp_path / "train_state" / name).mkdir(parents=True)
    folder.clear_leftovers()
    assert sorted(path.name for path in folder.place.iterdir()) == ["8", "8.corrupt", "mine"]
