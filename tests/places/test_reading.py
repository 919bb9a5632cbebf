"""A file on a store reads as its bytes, whatever fails on the way, and is no other one at the end."""

import io
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lodos.errors import UserError
from lodos.places import reading, store
from lodos.places.objects import write_object
from lodos.places.place import is_remote, place_of
from lodos.places.reading import opened
from lodos.places.store import StoreError, StoreFailingError, refusals
from stores import BUCKET, FaultProxy, s3_store, web_server

DATA = np.random.default_rng(0).bytes(300_000)
FAULTS = ["reset", "half", 503, 429]


@pytest.fixture(scope="module")
def s3() -> Iterator[FaultProxy]:
    with s3_store() as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(reading, "_BUFFER", 10_000)
    monkeypatch.setattr("lodos.places.ranges.NEAR", 10_000)
    monkeypatch.setattr("lodos.places.ranges.BLOCK", 30_000)


def an_object() -> Any:
    place = place_of(f"s3://{BUCKET}/file")
    assert is_remote(place)
    write_object(place, DATA)
    return place


def failing_now_and_then(seed: int) -> Any:
    draw = random.Random(seed)
    return lambda method, path: draw.choice(FAULTS) if draw.random() < 0.3 else None


@pytest.mark.parametrize("sequential", [True, False])
def test_a_file_on_a_store_that_fails_reads_as_its_bytes(
    s3: FaultProxy, sequential: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = an_object()
    monkeypatch.setattr(s3, "spoil", failing_now_and_then(1))
    s3.spoiled.clear()
    with opened(place, sequential=sequential) as file:
        if not sequential:
            assert file.seek(-5, io.SEEK_END) == len(DATA) - 5
            assert file.read() == DATA[-5:]
            assert file.seek(100_000) == 100_000
            assert file.read(7) == DATA[100_000:100_007]
            file.seek(0)
        assert file.read() == DATA
        assert file.read(1) == b""
    assert "half" in s3.spoiled


def test_a_web_page_that_breaks_off_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server({"/data": DATA}) as url, FaultProxy(url) as proxy:
        place = place_of(f"{proxy.url}/data")
        assert is_remote(place)
        faults = iter([None, "half", 503, None, "half", "reset", None])
        monkeypatch.setattr(proxy, "spoil", lambda method, path: next(faults, None))
        with opened(place, sequential=True) as file:
            assert file.read() == DATA
        assert proxy.spoiled.count("half") > 1


def test_a_file_that_is_changed_while_it_is_read_is_refused(s3: FaultProxy) -> None:
    place = an_object()

    def read() -> None:
        with opened(place, sequential=True) as file:
            assert file.read(10)
            write_object(place, DATA[::-1])
            file.read()

    with pytest.raises(StoreError, match="was changed while it was read"):
        read()


def test_a_web_server_without_ranges_is_said_where_they_are_needed() -> None:
    with web_server({"/data": DATA}) as url:
        place = place_of(f"{url}/data")
        assert is_remote(place)
        with pytest.raises(StoreError, match="copy it first"), opened(place, sequential=False) as file:
            file.read(10)


@pytest.mark.parametrize(("status", "error"), [(404, UserError), (403, UserError), (503, StoreFailingError)])
def test_what_a_web_server_says_decides_whether_to_try_again(
    status: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsspec says of all of these that nothing is there."""
    with web_server({"/data": status}) as url:
        place = place_of(f"{url}/data?signature=canary")
        assert is_remote(place)
        with pytest.raises(error) as caught, refusals("data", place), opened(place, sequential=True):
            pass
    assert "canary" not in str(caught.value)


def test_a_host_that_is_not_there_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of("http://no-such-host.invalid/data")
    assert is_remote(place)
    monkeypatch.setattr(store, "ATTEMPTS", 1)
    with pytest.raises(UserError), refusals("data", place), opened(place, sequential=True):
        pass
