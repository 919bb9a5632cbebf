import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lodos import files
from lodos.errors import UserError
from lodos.files import write_json, write_whole, written_whole
from lodos.json_files import read_json


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "old.txt").write_text("old", encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Every file beneath a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()
    }


def test_a_folder_is_not_there_until_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "place"
    with written_whole(place) as folder:
        (folder / "one.txt").write_text("1", encoding="utf-8")
        assert not place.exists()
        assert folder.parent == place.parent  # else moving it into place would be a copy
    assert contents(tmp_path) == {"deep/place/one.txt": "1"}


def test_a_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "deep" / "file.txt", "ä")
    assert contents(tmp_path) == {"deep/file.txt": "ä"}
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "deep" / "file.txt", "begins well, \ud800")
    assert contents(tmp_path) == {"deep/file.txt": "ä"}


def test_a_new_folder_replaces_the_old_one(old_folder: Path) -> None:
    with written_whole(old_folder) as folder:
        (folder / "new.txt").write_text("new", encoding="utf-8")
        assert contents(old_folder) == {"old.txt": "old"}
    assert contents(old_folder.parent) == {"place/new.txt": "new"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets two folders change places in one step")
def test_a_reader_finds_a_whole_folder_at_every_moment(old_folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from lodos.files import written_whole\n"
        "for i in range(300):\n"
        "    with written_whole(Path(sys.argv[1])) as folder: (folder / 'old.txt').write_text(str(i))\n"
    )
    looked = 0
    with subprocess.Popen([sys.executable, "-c", script, str(old_folder)]) as writer:
        while writer.poll() is None:
            assert (old_folder / "old.txt").exists()
            looked += 1
    assert writer.returncode == 0
    assert looked > 300
    assert contents(old_folder.parent) == {"place/old.txt": "299"}


def test_where_folders_cannot_change_places_the_new_one_still_replaces_the_old(
    old_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    with written_whole(old_folder) as folder:
        (folder / "new.txt").write_text("new", encoding="utf-8")
    assert contents(old_folder.parent) == {"place/new.txt": "new"}


@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_nothing_is_left_of_a_file_or_symlink_that_was_replaced(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("old", encoding="utf-8")
    else:
        (tmp_path / "place.target").mkdir()
        place.symlink_to(tmp_path / "place.target")
    with written_whole(place):
        pass
    assert place.is_dir()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_folder_and_nothing_else(old_folder: Path, error: type[BaseException]) -> None:
    def half() -> None:
        with written_whole(old_folder) as folder:
            (folder / "new.txt").write_text("new", encoding="utf-8")
            raise error

    with pytest.raises(error):
        half()
    assert list(old_folder.parent.iterdir()) == [old_folder]
    assert contents(old_folder) == {"old.txt": "old"}


def test_an_exception_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half"), written_whole(tmp_path / "place"):
        raise ValueError("half")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_the_old_folder(old_folder: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from lodos.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'new.txt').write_text('new'); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(old_folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert contents(old_folder) == {"old.txt": "old"}
    visible = [path.name for path in old_folder.parent.iterdir() if not path.name.startswith(".")]
    assert visible == ["place"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with written_whole(tmp_path / "place"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "place").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_relative_path_is_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with written_whole(Path("place")) as folder:
        (folder / "one.txt").write_text("1", encoding="utf-8")
    assert contents(tmp_path) == {"place/one.txt": "1"}


def test_json_is_read_as_written_and_written_as_hugging_face_does(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"ü": "naïve 日本"}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "a": {\n    "ü": "naïve 日本"\n  },\n  "b": [')
    assert text.endswith("}\n")


def test_json_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json: there is no such file"):
        read_json(tmp_path / "nowhere.json")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"{'a': 1}", b'{"a": "\xff"}'])
def test_json_that_is_broken_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.json: not valid JSON"):
        read_json(tmp_path / "broken.json")
