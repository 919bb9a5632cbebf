"""A request to a store is tried again while that can help, and ends within bounds."""

import time
from collections.abc import Iterator

import pytest

from lodos import cli
from lodos.errors import TRY_AGAIN, UserError
from lodos.places import store
from lodos.places.objects import read_object, write_object
from lodos.places.place import place_of
from lodos.places.saving import check_writable
from lodos.places.store import StoreFailingError
from stores import BUCKET, FaultProxy, s3_store

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
