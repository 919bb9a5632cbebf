"""Where a run is to write is looked at before anything else is done, and left as it was."""

import os
from pathlib import Path

import pytest

from lodos.errors import UserError
from lodos.places.saving import check_all_writable, check_writable


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    check_all_writable({"one": tmp_path / "there", "two": tmp_path / "deep" / "deeper", "three": tmp_path / "deep"})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "there"]


def test_what_is_in_the_way_is_named_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    places = {
        "a": tmp_path / "file",
        "b": tmp_path / "file" / "run",
        "c": tmp_path / "dangling",
        "d": tmp_path / "dangling" / "run",
        "e": tmp_path / ("x" * 300),
        "f": tmp_path / "loop" / "run",
        "g": Path("/proc/nowhere/run"),
        "h": tmp_path / "nul\0",
    }
    with pytest.raises(UserError) as error:
        check_all_writable(places)
    said = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in said] == list(places)
    for line, words in zip(
        said,
        (
            "file is a file, not a folder",
            "file is a file, not a folder",
            f"dangling is a link to {tmp_path / 'nowhere'}, where nothing is",
            f"dangling is a link to {tmp_path / 'nowhere'}, where nothing is",
            "it cannot be written: File name too long",
            "loop is a link to",
            "it cannot be written: ",
            "it cannot be written: embedded null",
        ),
        strict=True,
    ):
        assert words in line
        assert line.endswith("Name another folder.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file", "loop"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match=r"run_dir: .*runs: it cannot be written: Permission denied"):
        check_writable("run_dir", tmp_path / "runs")


def test_a_file_system_that_is_read_only_is_refused() -> None:
    for mount in Path("/proc/mounts").read_text(encoding="utf-8").splitlines() if Path("/proc/mounts").exists() else ():
        _, folder, _, options, *_ = mount.split()
        if "ro" in options.split(",") and os.path.isdir(folder):
            with pytest.raises(UserError, match=r"run_dir: .*: it cannot be written: Read-only file system"):
                check_writable("run_dir", Path(folder) / "lodos-runs")
            return
    pytest.skip("nothing is mounted read-only here")
