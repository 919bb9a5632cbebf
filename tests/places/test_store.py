"""A request to a store is tried again while that can help, and ends within bounds."""

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lodos import cli
from lodos.errors import TRY_AGAIN, UserError
from lodos.places import place, store
from lodos.places.objects import read_object, write_object
from lodos.places.place import place_of
from lodos.places.saving import check_writable
from lodos.places.store import RefusedError, StoreFailingError
from stores import BUCKET, FaultProxy, gcs_store, s3_store

PLACE = place_of(f"s3://{BUCKET}/object")


@pytest.fixture(scope="module")
def s3() -> Iterator[FaultProxy]:
    with s3_store() as proxy:
        write_object(PLACE, b"bytes")  # pyright: ignore[reportArgumentType]
        yield proxy


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each wait was, which is not waited."""
    waited: list[float] = []
    monkeypatch.setattr(store.time, "sleep", waited.append)
    return waited


@pytest.mark.parametrize("failure", [TimeoutError("late"), ConnectionResetError("reset")])
def test_waits_double_and_end(waits: list[float], failure: Exception) -> None:
    def call() -> None:
        raise failure

    with pytest.raises(StoreFailingError, match="6 times"):
        store.retried("s3://bucket/x", call)
    assert len(waits) == store.ATTEMPTS - 1
    for wait, expected in zip(waits, (0.5, 1, 2, 4, 8), strict=True):
        assert 0.75 * expected <= wait <= 1.25 * expected


def test_what_fails_once_or_twice_comes_right(waits: list[float]) -> None:
    failures: list[Exception] = [ConnectionResetError(), TimeoutError()]

    def call() -> str:
        if failures:
            raise failures.pop()
        return "there"

    assert store.retried("s3://bucket/x", call) == "there"
    assert len(waits) == 2


def test_silence_is_not_waited_for_without_end(s3: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SECONDS", 0.3)
    monkeypatch.setattr(store, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(s3, "stall_seconds", 2.0)
    monkeypatch.setattr(s3, "spoil", lambda method, path: "stall")
    start = time.monotonic()
    with pytest.raises(StoreFailingError, match="no answer within"):
        read_object(PLACE)  # pyright: ignore[reportArgumentType]
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("refused", ["PUT", "DELETE"])
def test_what_may_not_be_written_is_said_at_once(
    s3: FaultProxy, monkeypatch: pytest.MonkeyPatch, waits: list[float], refused: str
) -> None:
    monkeypatch.setattr(s3, "spoil", lambda method, path: 403 if method == refused else None)
    with pytest.raises(UserError, match=r"trainer.run_dir: s3://.*the store refuses: .*AWS_PROFILE"):
        check_writable("trainer.run_dir", PLACE)
    assert waits == []


@pytest.mark.parametrize(("status", "expected"), [(503, TRY_AGAIN), (403, 1)])
def test_the_exit_code_says_whether_to_try_again(
    s3: FaultProxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, expected: int
) -> None:
    monkeypatch.setattr(store, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(store, "SECONDS", 0.5)  # the store's own package waits longer
    monkeypatch.setattr(store, "ATTEMPTS", 2)
    monkeypatch.setattr(s3, "spoil", lambda method, path: status)
    assert cli.main(["train", f"s3://{BUCKET}/config.yaml"]) == expected
    assert "Traceback" not in (said := capsys.readouterr().err)
    assert "error: " in said


def test_what_tensorstore_meets_is_said_as_what_we_do() -> None:
    """It ends, whatever the store does, a connection over which nothing comes included."""
    import tensorstore as ts

    folder_of_it = place_of(f"gs://{BUCKET}/folder")
    retries = {"max_retries": 1, "initial_delay": "10ms", "max_delay": "10ms"}
    with gcs_store() as gcs:
        where = {"driver": "gcs", "bucket": BUCKET, "path": "folder/"}
        folder: Any = ts.KvStore.open(where, context=ts.Context({"gcs_request_retries": retries})).result()
        folder.write("object", b"bytes").result()
        assert folder.read("object").result().value == b"bytes"
        gcs.stall_seconds = 60.0
        for fault, expected in [(fault, StoreFailingError) for fault in (503, 500, 429, "reset", "half", "stall")] + [
            (403, RefusedError)
        ]:
            gcs.spoil = lambda method, path, fault=fault: fault
            with pytest.raises(expected, match=f"gs://{BUCKET}/folder|refuses"), store.failures_of(folder_of_it):
                folder.read("object").result()
    with pytest.raises(ValueError, match="no store"), store.failures_of(folder_of_it):
        raise ValueError("of no store")


def test_orbax_does_not_wait_for_silence_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that it does not leave to TensorStore; with a file system of its own."""
    from etils import epath
    from fsspec.config import conf

    monkeypatch.setattr(place, "_SILENCE", 0.3)
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=lambda _: asyncio.sleep(0)))
    with gcs_store() as gcs:
        monkeypatch.setitem(conf, "gcs", {name: value for name, value in conf["gcs"].items() if "timeout" not in name})
        folder = place_of(f"gs://{BUCKET}/folder")
        write_object(folder / "object", b"bytes")  # pyright: ignore[reportArgumentType]
        path = epath.Path(f"gs://{BUCKET}/folder/object")
        assert path.read_bytes() == b"bytes"
        gcs.stall_seconds = 60.0
        gcs.spoil = lambda method, path: "stall"
        start = time.monotonic()
        with pytest.raises(StoreFailingError), store.failures_of(folder):
            path.read_bytes()
        assert time.monotonic() - start < gcs.stall_seconds
