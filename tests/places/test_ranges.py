"""Ranges of a file on a store are its bytes, and what is kept of them is bounded over all files."""

import numpy as np
import pytest

from lodos.places import ranges
from lodos.places.objects import write_object
from lodos.places.place import is_remote, place_of
from lodos.places.ranges import KeptRanges, RangedFile

SIZE = 5000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Small sizes, and the requests that were made."""
    asked = []
    read = ranges.read_object

    def noted(place: object, start: int, end: int) -> bytes:
        asked.append((start, end))
        return read(place, start, end)  # pyright: ignore[reportArgumentType]

    for name, size in {"BLOCK": 400, "NEAR": 50, "PART": 300, "KEPT": 1000}.items():
        monkeypatch.setattr(ranges, name, size)
    monkeypatch.setattr(ranges, "read_object", noted)
    return asked


def a_file(name: str, kept: KeptRanges, seed: int = 0) -> tuple[RangedFile, bytes]:
    place, data = place_of(f"memory://ranges/{name}"), np.random.default_rng(seed).bytes(SIZE)
    assert is_remote(place)
    write_object(place, data)
    return RangedFile(place, SIZE, kept), data


def test_any_ranges_of_several_files_are_their_bytes(small: list[tuple[int, int]]) -> None:
    kept, draw = KeptRanges(), np.random.default_rng(1)
    files = [a_file(f"of-{n}", kept, n) for n in range(3)]
    for _ in range(300):
        file, data = files[draw.integers(3)]
        start, end = sorted(draw.integers(0, SIZE + 1, 2).tolist())
        assert file.read(start, end) == data[start:end]
        held = sum(map(len, kept._ranges.values()))
        assert held == kept._bytes <= ranges.KEPT
    assert all(end - start <= ranges.PART for start, end in small)


def test_what_was_just_read_is_not_asked_for_again(small: list[tuple[int, int]]) -> None:
    file, data = a_file("again", KeptRanges())
    file.read(0, 200)
    requests = len(small)
    assert file.read(10, 150) == data[10:150]
    assert file.read(200, 380) == data[200:380]  # brought along
    assert len(small) == requests


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (4, 3), (0, SIZE + 1)])
def test_what_the_file_does_not_have_is_an_error(small: list[tuple[int, int]], start: int, end: int) -> None:
    with pytest.raises(OSError, match=f"has {SIZE} bytes"):
        a_file("short", KeptRanges())[0].read(start, end)
