"""What is where: a store that fails is not one that has nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lodos.places import store
from lodos.places.looking import is_file, is_folder, is_there, names_in
from lodos.places.objects import objects_below, write_object
from lodos.places.place import Place, is_remote, place_of
from lodos.places.store import StoreFailingError
from stores import BUCKET, FaultProxy, s3_store

LOOKS: dict[str, Any] = {
    "is_there": is_there,
    "is_file": is_file,
    "is_folder": is_folder,
    "names_in": names_in,
    "objects_below": objects_below,
}


@pytest.fixture(scope="module")
def s3() -> Iterator[FaultProxy]:
    with s3_store() as proxy:
        yield proxy


@pytest.mark.parametrize("base", ["s3", "memory", "local"])
def test_it_is_the_same_here_and_on_stores(base: str, s3: FaultProxy, tmp_path: Path) -> None:
    folder: Place = {"s3": place_of(f"s3://{BUCKET}/x"), "memory": place_of("memory://x")}.get(base, tmp_path / "x")
    for name in ("a.json", "b.txt", "c/d.json"):
        if is_remote(folder):
            write_object(folder / name, b"1")
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"1")
    assert [look(folder) for look in (is_there, is_file, is_folder)] == [True, False, True]
    assert [look(folder / "a.json") for look in (is_there, is_file, is_folder)] == [True, True, False]
    assert [look(folder / "none") for look in (is_there, is_file, is_folder)] == [False, False, False]
    assert names_in(folder) == ["a.json", "b.txt", "c"]
    assert names_in(folder, "*.json") == ["a.json"]
    assert names_in(folder / "none") == []


@pytest.mark.parametrize("look", LOOKS)
def test_a_store_that_fails_does_not_have_nothing(look: str, s3: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(store, "ATTEMPTS", 2)
    monkeypatch.setattr(s3, "spoil", lambda method, path: 503)
    with pytest.raises(StoreFailingError):
        LOOKS[look](place_of(f"s3://{BUCKET}/x"))


def test_a_folder_that_cannot_be_listed_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.spec import AbstractFileSystem

    monkeypatch.setattr(MemoryFileSystem, "find", AbstractFileSystem.find)  # which leaves it out
    folder = place_of("memory://listed")
    assert is_remote(folder)
    for name in ("a", "below/b"):
        write_object(folder / name, b"1")
    ls = MemoryFileSystem.ls

    def failing(self: Any, path: str, **kwargs: Any) -> Any:
        if path.endswith("below"):
            raise TimeoutError("late")
        return ls(self, path, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "ls", failing)
    monkeypatch.setattr(store, "FIRST_WAIT", 0.0)
    with pytest.raises(StoreFailingError):
        objects_below(folder)
