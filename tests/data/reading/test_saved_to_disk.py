"""Of a folder that `datasets` wrote, the rows are those of the data set, whatever lies beside them."""

import json
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from lodos.data.reading.locations import find_files
from lodos.data.reading.sources import DataSource, iter_rows, read_rows
from lodos.errors import UserError


def _saved(folder: Path, *texts: str, shards: int = 1) -> Path:
    datasets.Dataset.from_dict({"text": list(texts)}).save_to_disk(folder, num_shards=shards)
    return folder


def _leave(folder: Path, *texts: str, name: str = "cache-22396a4692521005.arrow") -> None:
    """What `map` leaves beside the data: rows of the same columns."""
    table = pa.table({"text": list(texts)})
    with pa.OSFile(str(folder / name), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)


def _texts(path: object, split: str | None = None) -> list[str]:
    return [row.fields["text"] for row in iter_rows(DataSource(str(path), split=split))]


def test_leftovers_of_map_are_no_rows(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "saved", *"abcde", shards=2)
    _leave(folder, "x", "y")
    _leave(folder, "z", name="tmp1_2ab.arrow")
    assert _texts(folder) == list("abcde")
    assert _texts(f"{folder}/*.arrow") == list("abcde")
    assert _texts(f"{folder}/data-00001*") == list("de")
    assert _texts(folder / "cache-22396a4692521005.arrow") == ["x", "y"]  # asked for by name
    assert _texts(f"file://{folder}/cache-22396a4692521005.arrow") == ["x", "y"]
    with pytest.raises(UserError, match=r"none of the data set's files: .*cache-2239"):
        find_files(f"{folder}/cache-*.arrow")


def test_in_the_cache_of_datasets_leftovers_are_no_rows(tmp_path: Path) -> None:
    _leave(tmp_path, "a", "b", name="set-train.arrow")
    _leave(tmp_path, "x")
    _leave(tmp_path, "y", name="cache-22396a4692521005_00001_of_00002.arrow")
    assert len(_texts(tmp_path, "train")) == 2
    (tmp_path / "dataset_info.json").write_text("{}")
    assert _texts(tmp_path) == ["a", "b"]


def test_a_folder_of_splits_is_asked_for_one(tmp_path: Path) -> None:
    for split in ("train", "validation", "train_sft"):
        _leave(_saved(tmp_path / split, split), "left over")
    splits = tmp_path / "dataset_dict.json"
    splits.write_text(json.dumps({"splits": ["train", "validation", "train_sft"]}))
    assert _texts(tmp_path) == ["train"]
    assert _texts(tmp_path, "train_sft") == ["train_sft"]
    assert _texts(tmp_path, "validation") == ["validation"]
    with pytest.raises(UserError, match=r"split 'test': there is none of that name, of train, validation, train_sft"):
        find_files(str(tmp_path), "test")
    splits.write_text(json.dumps({"splits": ["validation", "train_sft"]}))
    with pytest.raises(UserError, match="which of its splits is meant, of validation, train_sft"):
        find_files(str(tmp_path))
    splits.write_text(json.dumps({"splits": ["validation"]}))
    assert _texts(tmp_path) == ["validation"]
    shutil.rmtree(tmp_path / "validation")
    with pytest.raises(UserError, match="lists the split validation, whose folder holds no data"):
        find_files(str(tmp_path))


def test_what_datasets_itself_saves_is_read(tmp_path: Path) -> None:
    parts = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert _texts(tmp_path / "saved", "test") == ["test"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "saved", *"abcd", shards=2)
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"state.json names files that are not there: data-00001-of-00002.arrow"):
        read_rows(folder)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("{", "cannot be read"),
        ('{"_data_files": [{"filename": "../a.arrow"}]}', "names files outside its folder"),
        ('{"_data_files": []}', "the data set has no rows"),
        ('{"_data_files": 3}', "no list of files"),
        ('{"_data_files": [{"filename": "data.arrow"}], "_indices_files": [{"filename": "i"}]}', "a file of indices"),
    ],
)
def test_a_state_that_cannot_be_followed_is_refused(tmp_path: Path, state: str, says: str) -> None:
    _leave(tmp_path, "a", name="data.arrow")
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(UserError, match=says):
        read_rows(tmp_path)
    (tmp_path / "state.json").write_text('{"version": 1}')  # someone else's
    assert _texts(tmp_path) == ["a"]


def test_it_is_the_same_on_a_remote_store(tmp_path: Path) -> None:
    import fsspec

    _leave(_saved(tmp_path / "saved", "a", "b"), "x")
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.put(f"{tmp_path}/saved", "/saved", recursive=True)
    assert _texts("memory://saved") == ["a", "b"]
    memory.store.clear()
