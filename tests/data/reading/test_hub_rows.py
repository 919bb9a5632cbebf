"""Data sets of the hub, as far as that goes without it: `datasets` reads a folder as it reads a repository."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

from lodos.data.reading import hub_rows as module
from lodos.data.reading.hub_rows import hub_fingerprint, hub_rows
from lodos.data.reading.sources import DataSource, fingerprint, iter_rows, source_files
from lodos.errors import UserError

TRAIN = [{"text": f"é {i}", "turns": [{"role": "user", "n": None}] * (i % 3)} for i in range(5)]


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module._commit.cache_clear()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """What a repository may hold."""
    for split, rows in (("train", TRAIN), ("test", TRAIN[:1])):
        path = tmp_path / "repo" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "repo")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Any]]:
    """Lets the hub's answer to `dataset_info` be a value or an error; gives the list of what it was asked."""

    def set_answer(value: Any) -> list[Any]:
        asked: list[Any] = []

        def dataset_info(_: Any, repo: str, *, revision: str | None, timeout: float) -> Any:
            asked.append((repo, revision))
            if isinstance(value, Exception):
                raise value
            return SimpleNamespace(sha=value)

        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
        return asked

    return set_answer


@pytest.mark.parametrize("stream", [False, True])
def test_the_rows_of_a_split(folder: str, answer: Callable[[Any], Any], stream: bool) -> None:
    answer(None)
    rows = list(hub_rows(folder, stream=stream))
    assert [r.fields for r in rows] == TRAIN  # train, of two
    assert [(r.file, r.number) for r in rows] == [(f"{folder} (train)", i) for i in range(1, 6)]
    assert [r.fields for r in hub_rows(folder, split="test", stream=stream)] == TRAIN[:1]
    with pytest.raises(UserError, match=r"cannot be read: .*none"):
        list(hub_rows(folder, split="none", stream=stream))


def test_which_split_is_meant_must_be_clear(folder: str, answer: Callable[[Any], Any]) -> None:
    answer(None)
    (Path(folder) / "train.jsonl").rename(Path(folder) / "dev.jsonl")
    with pytest.raises(UserError, match=r"which of its splits is meant: validation, test\?"):
        list(hub_rows(folder))


def test_the_commit_is_looked_up_once_and_is_what_is_read(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any], list[Any]]
) -> None:
    asked, loaded = answer("c0ffee"), []

    def load_dataset(*args: Any, **options: Any) -> Any:
        loaded.append((args, options))
        return [{"a": 1}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = DataSource("owner/name", split="test", name="main", revision="v1", weight=2)
    assert source_files(source) == []
    found = fingerprint(source)
    assert [(r.where, r.fields) for r in iter_rows(source)] == [("owner/name (main, test), row 1", {"a": 1})]
    assert asked == [("owner/name", "v1")]
    assert loaded == [(("owner/name", "main"), {"split": "test", "revision": "c0ffee", "streaming": False})]
    assert found == fingerprint(DataSource("owner/name", split="test", name="main", revision="v1"))


def test_the_fingerprint_is_of_all_that_decides_the_rows(answer: Callable[[Any], Any]) -> None:
    answer("one")
    found = {
        hub_fingerprint("a/b"),
        hub_fingerprint("a/c"),
        hub_fingerprint("a/b", split="x"),
        hub_fingerprint("a/b", name="x"),
    }
    module._commit.cache_clear()
    answer("two")
    assert len(found | {hub_fingerprint("a/b")}) == 5


def test_what_cannot_be_had_is_refused_with_what_the_hub_says(answer: Callable[[Any], Any]) -> None:
    response: Any = SimpleNamespace(headers={}, request=None, status_code=404)
    for error, says in (
        (RepositoryNotFoundError("404: no such repository", response=response), "404: no such repository. A gated"),
        (ConnectionError("no route to host"), "no route to host. HF_HUB_OFFLINE=1 takes the copy"),
    ):
        answer(error)
        for read in (lambda: list(iter_rows(DataSource("a/b"))), lambda: fingerprint(DataSource("a/b"))):
            with pytest.raises(UserError, match=rf"a/b: not a file or folder here, .*: {says}"):
                read()


def test_offline_the_copy_in_the_cache_is_read(
    folder: str, tmp_path: Path, answer: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(OfflineModeIsEnabled("offline"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert [r.fields for r in hub_rows(folder)] == TRAIN
    first = hub_fingerprint(folder)
    assert hub_fingerprint(folder) == first != hub_fingerprint(folder, split="test")
    with pytest.raises(UserError, match=r"offline, and which revision .* Leave out 'v1'"):
        list(hub_rows(folder, revision="v1"))
