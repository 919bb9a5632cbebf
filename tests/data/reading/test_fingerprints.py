"""A changed content is another fingerprint, whatever the store says of size and time."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from lodos.data.reading.fingerprints import file_fingerprint
from lodos.errors import UserError


def test_content_decides_not_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    found = []
    for content in ("[1]", "[2]", "[1]"):
        path.write_text(content)
        os.utime(path, (1, 1))
        found.append(file_fingerprint(str(path)))
    assert found[0] == found[2] != found[1]


def test_a_remote_file_without_a_version_is_read() -> None:
    system: Any = fsspec.filesystem("memory")
    system.pipe("/fp/a.json", b"[1]")
    first = file_fingerprint("memory://fp/a.json")
    system.pipe("/fp/a.json", b"[1]")  # written again, later
    assert file_fingerprint("memory://fp/a.json") == first
    system.pipe("/fp/a.json", b"[2]")
    assert file_fingerprint("memory://fp/a.json") != first
    system.rm("/fp", recursive=True)


def test_a_version_that_the_store_keeps_spares_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    system: Any = fsspec.filesystem("memory")
    system.pipe("/fp/a.json", b"[1]")
    tag = "one"
    info = type(system).info
    monkeypatch.setattr(type(system), "info", lambda self, path, **kw: {**info(self, path, **kw), "ETag": tag})
    monkeypatch.setattr(type(system), "open", None)
    first = file_fingerprint("memory://fp/a.json")
    assert file_fingerprint("memory://fp/a.json") == first
    tag = "two"
    assert file_fingerprint("memory://fp/a.json") != first
    system.rm("/fp", recursive=True)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: cannot be read"):
        file_fingerprint(f"{tmp_path}/none")
    with pytest.raises(UserError, match="nothing is there"):
        file_fingerprint("memory://fp/none")
