"""An entry is right or not there, whoever is killed and whoever is faster."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lodos.data.examples import TokenizedExample
from lodos.data.tokens.cache import ABANDONED_SECONDS, cache_key, data_cache_folder, load_or_build
from lodos.data.tokens.store import BrokenStoreError, Columns, ExampleStore, StoreWriter
from lodos.errors import UserError
from lodos.processes import this_process


class BrokenError(Exception):
    """What `load` says of an entry that is not whole."""


def load(folder: Path) -> str:
    content = (folder / "value").read_text() if (folder / "value").exists() else ""
    if not content.endswith("."):
        raise BrokenError(content)
    return content


class Build:
    """Writes a value, and counts how often."""

    def __init__(self, value: str = "made."):
        self.value, self.times = value, 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "value").write_text(self.value)


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    build = Build()
    for _ in range(3):
        assert load_or_build(tmp_path / "a" / "entry", load, build, broken=BrokenError) == "made."
    assert build.times == 1
    assert os.listdir(tmp_path / "a") == ["entry"]


def test_an_entry_that_is_not_whole_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "value").write_text("ma")
    assert load_or_build(tmp_path / "entry", load, Build(), broken=BrokenError) == "made."
    assert os.listdir(tmp_path) == ["entry"]


def test_an_entry_that_has_changed_by_one_bit_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of every file of a real store, the tokens, the counts and the manifest."""
    ids_of = [np.arange(i, i + 9, dtype=np.int32) for i in range(2)]
    examples = [TokenizedExample(ids, np.arange(9) > 3, "rows.json", i, 0) for i, ids in enumerate(ids_of)]
    times = []

    def build(folder: Path) -> None:
        times.append(folder)
        with StoreWriter(folder) as writer:
            writer.write(Columns.of(examples))

    def ids() -> list[list[int]]:
        store = load_or_build(tmp_path / "entry", ExampleStore, build, broken=BrokenStoreError)
        return [example.ids.tolist() for example in store]

    expected = ids()
    rng = np.random.default_rng(0)
    for file in sorted(path.name for path in (tmp_path / "entry").iterdir()):
        for _ in range(12):
            path = tmp_path / "entry" / file
            content = bytearray(path.read_bytes())
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
            caplog.clear()
            assert ids() == expected
            assert "It is made again" in caplog.text
    assert len(times) == 1 + 12 * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("bad row")])
def test_a_build_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def build(folder: Path) -> None:
        (folder / "value").write_text("made.")
        raise error

    with pytest.raises(type(error)):
        load_or_build(tmp_path / "entry", load, build, broken=BrokenError)
    assert os.listdir(tmp_path) == []


def test_a_build_that_wrote_nothing_whole_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BrokenError):
        load_or_build(tmp_path / "entry", load, Build("cut"), broken=BrokenError)
    assert os.listdir(tmp_path) == []


def test_a_killed_build_is_started_over(tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from lodos.data.tokens.cache import load_or_build\n"
        "def build(folder):\n"
        "    (folder / 'value').write_text('made.')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"load_or_build(Path({str(tmp_path / 'entry')!r}), lambda _: None, build, broken=ValueError)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    (left,) = os.listdir(tmp_path)
    assert left.endswith(".partial")
    assert load_or_build(tmp_path / "entry", load, Build(), broken=BrokenError) == "made."
    assert os.listdir(tmp_path) == ["entry"]


def test_what_was_left_behind_a_day_ago_is_removed(tmp_path: Path) -> None:
    """Of other machines' processes nobody can say whether they live; of one of this machine, that it does."""
    old, young = tmp_path / ".x.old.partial", tmp_path / f".x.{this_process().tag}.y.partial"
    for folder in (old, young):
        folder.mkdir()
        (folder / "value").write_text("ma")
        long_ago = time.time() - ABANDONED_SECONDS - 60
        os.utime(folder / "value", (long_ago, long_ago))
        os.utime(folder, (long_ago, long_ago))
    (young / "value").write_text("mad")  # its owner is writing
    load_or_build(tmp_path / "entry", load, Build(), broken=BrokenError)
    assert sorted(os.listdir(tmp_path)) == [young.name, "entry"]


def test_two_may_build_the_same_at_once(tmp_path: Path) -> None:
    both_are_building = threading.Barrier(2)
    results: list[str] = []

    def make(value: str) -> None:
        def build(folder: Path) -> None:
            (folder / "value").write_text(value)
            both_are_building.wait(timeout=30)

        results.append(load_or_build(tmp_path / "entry", load, build, broken=BrokenError))

    threads = [threading.Thread(target=make, args=(value,)) for value in ("one.", "two.")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert len(set(results)) == 1  # the second to finish takes what the first has put there
    assert os.listdir(tmp_path) == ["entry"]


def test_the_key_goes_by_content_and_not_by_order() -> None:
    assert cache_key({"a": 1, "b": [None, "é"]}) == cache_key({"b": [None, "é"], "a": 1})
    keys = [cache_key(value) for value in ({"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, {"a": True}, {"a": None}, {})]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_to_be_one(tmp_path: Path, number: int) -> None:
    def build(folder: Path) -> None:
        raise OSError(number, "No space left on device")

    with pytest.raises(UserError, match=r"data_cache_dir: .* cannot be written: No space left"):
        load_or_build(tmp_path / "entry", load, build, broken=BrokenError)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data_cache_dir: .*file/cache cannot be written: Not a directory"):
        load_or_build(tmp_path / "file" / "cache" / "entry", load, Build(), broken=BrokenError)


def test_other_errors_of_the_disk_are_not_blamed_on_the_cache(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "data.json")

    with pytest.raises(PermissionError):
        load_or_build(tmp_path / "entry", load, build, broken=BrokenError)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data_cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("LODOS_CACHE", str(tmp_path))
    assert data_cache_folder(None) == tmp_path / "data"
    monkeypatch.delenv("LODOS_CACHE")
    assert data_cache_folder(None).parts[-2:] == ("lodos", "data")
