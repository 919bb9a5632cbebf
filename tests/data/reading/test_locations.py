"""What a path names is found whole, or the error lists what there is; nothing is chosen silently."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lodos.data.reading.locations import find_files, is_hub_id, kind_of
from lodos.errors import UserError


def _make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def _below(folder: Path, path: str, split: str | None = None) -> list[str]:
    return [str(Path(file).relative_to(folder)) for file in find_files(path, split)]


def test_a_file_a_folder_and_a_glob(tmp_path: Path) -> None:
    _make(
        tmp_path, "b.jsonl", "a.json.gz", "sub/c.ndjson.zst", "README.md", ".hidden.json", ".git/x.json", "state.json"
    )
    assert _below(tmp_path, f"{tmp_path}/b.jsonl") == ["b.jsonl"]
    assert _below(tmp_path, f"file://{tmp_path}/b.jsonl") == ["b.jsonl"]
    assert _below(tmp_path, str(tmp_path)) == ["a.json.gz", "b.jsonl", "sub/c.ndjson.zst"]
    assert _below(tmp_path, f"{tmp_path}/*.jsonl") == ["b.jsonl"]
    assert _below(tmp_path, f"{tmp_path}/**/*.*n*") == ["a.json.gz", "b.jsonl", "state.json", "sub/c.ndjson.zst"]


def test_what_a_folder_holds_besides_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _make(tmp_path, "b.jsonl", "more.xlsx", "README.md", "state.json")
    with caplog.at_level("INFO"):
        for _ in range(2):
            assert _below(tmp_path, str(tmp_path)) == ["b.jsonl"]
    assert caplog.messages == [f"{tmp_path}: passed over what are no files of data: README.md, more.xlsx"]


def test_home_is_known_and_a_name_with_wildcards_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _make(tmp_path, "rows[1].json", "rows1.json")
    assert _below(tmp_path, "~/rows[1].json") == ["rows[1].json"]
    assert _below(tmp_path, "~/rows[0-9].json") == ["rows1.json"]


def test_a_pattern_that_matches_nothing_says_what_is_there_and_what_to_write(tmp_path: Path) -> None:
    _make(tmp_path, "rows[1]a.jsonl", "rows[1]b.jsonl", "sub/x.csv")
    with pytest.raises(UserError, match=r"holds rows\[1\].\.jsonl, rows\[1\].\.jsonl, sub\)") as error:
        find_files(f"{tmp_path}/rows[1]*.jsonl")
    (written,) = re.findall(r"Write '(.*?)', which finds .*rows\[1\]a.jsonl, .*rows\[1\]b.jsonl\.", str(error.value))
    assert _below(tmp_path, written) == ["rows[1]a.jsonl", "rows[1]b.jsonl"]
    with pytest.raises(UserError, match=r"Write '.*rows\[\[\]2\].jsonl', if the brackets are part of a name"):
        find_files(f"{tmp_path}/rows[2].jsonl")
    with pytest.raises(UserError, match=r"sub holds x.csv\).$"):
        find_files(f"{tmp_path}/sub/*.json")
    with pytest.raises(UserError, match=r"no such file .*holds .*rows\[1\]a.jsonl"):
        find_files(f"{tmp_path}/none/rows1a.jsonl")


def test_files_behind_links_are_found_once(tmp_path: Path) -> None:
    _make(tmp_path, "far/a.json", "here/b.json")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "here" / "loop").symlink_to(tmp_path / "here")
    assert _below(tmp_path, f"{tmp_path}/here") == ["here/b.json", "here/link/a.json"]


@pytest.mark.parametrize(
    ("names", "of_split"),
    [
        (["train.jsonl", "test.jsonl"], {"train": ["train.jsonl"], "test": ["test.jsonl"], None: ["train.jsonl"]}),
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/val-00000.parquet"],
            {
                None: ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
                "validation": ["data/val-00000.parquet"],
            },
        ),
        (["test/a.csv", "train/a.csv"], {"test": ["test/a.csv"], None: ["train/a.csv"]}),
        (["gsm8k_test.jsonl"], {None: ["gsm8k_test.jsonl"], "test": ["gsm8k_test.jsonl"]}),
        (["latest.jsonl"], {None: ["latest.jsonl"]}),  # "test" is part of a word
        (
            ["train_sft.json", "train_gen.json"],
            {"train_sft": ["train_sft.json"], "train": ["train_gen.json", "train_sft.json"]},
        ),
    ],
)
def test_splits_by_name(tmp_path: Path, names: list[str], of_split: dict[str | None, list[str]]) -> None:
    folder = tmp_path / "train_and_test"  # the name of the folder itself says nothing
    _make(folder, *names)
    for split, files in of_split.items():
        assert _below(folder, str(folder), split) == files
        if split is not None:
            assert _below(folder, f"{folder}/**/*.*", split) == files


@pytest.mark.parametrize(
    ("names", "split", "says"),
    [
        ([], None, "no data in this folder, which holds no files"),
        (["README.md", "dataset_info.json"], None, "no data in this folder, which holds README.md, dataset_info.json"),
        (["test.json", "a.json"], None, "which of its splits is meant?\n  no split: a.json\n  test: test.json\n"),
        (["train.json", "a.json"], None, "which of its splits is meant?"),
        (["val.json", "test.json"], None, "which of its splits is meant?\n  test: test.json\n  validation: val.json"),
        (["a.json", "b.csv"], None, "holds several formats: a.json, b.csv"),
        (
            ["train.json", "test.json"],
            "validation",
            "split 'validation': no file is named so, of test.json, train.json",
        ),
        ([f"{i}.json" for i in range(9)], "x", "0.json, 1.json, 2.json, 3.json, 4.json and 4 more"),
    ],
)
def test_a_folder_that_is_not_clear_is_refused(tmp_path: Path, names: list[str], split: str | None, says: str) -> None:
    _make(tmp_path, *names)
    with pytest.raises(UserError, match=re.escape(says)) as error:
        find_files(str(tmp_path), split)
    assert str(error.value).startswith(str(tmp_path))


def test_what_is_not_there_is_refused_with_the_fix(tmp_path: Path) -> None:
    _make(tmp_path, "a.json")
    for path, split, says in (
        (f"{tmp_path}/none.json", None, r"there is no such file \(looked in .*Give a file, a folder"),
        (f"{tmp_path}/*.csv", None, "no file matches"),
        (f"{tmp_path}/a.json", "train", "a single file has no splits"),
        ("nul\0byte.json", None, "the name holds a NUL"),
        ("/dev/null", None, "neither a file nor a folder"),
    ):
        with pytest.raises(UserError, match=says):
            find_files(path, split)


def test_the_kind_is_in_the_suffix_before_the_compression() -> None:
    kinds = {
        "json": ["a.json", "a.JSONL", "a.ndjson.gz", "x.y/a.jsonl.zst", "https://h/a.json?token=x.csv"],
        "csv": ["a.csv", "a.tsv.gz"],
        "parquet": ["s3://b/a.parquet"],
        "arrow": ["a.arrow", "a.feather"],
        None: ["a", "a.txt", "a.gz", "x.json/a"],
    }
    for kind, names in kinds.items():
        assert {name: kind_of(name) for name in names} == dict.fromkeys(names, kind)


def test_what_the_hub_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "squad").mkdir()
    assert is_hub_id("tatsu-lab/alpaca")
    assert is_hub_id("imdb")
    for path in (
        "squad",
        "./alpaca",
        "/a/b",
        "a/b/c",
        "rows.json",
        "a/rows.jsonl.gz",
        "data/*",
        "s3://a",
        "~/a",
        "..",
        "a b",
    ):
        assert not is_hub_id(path)


@pytest.fixture
def memory() -> Iterator[Any]:
    import fsspec

    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_remote_paths_are_as_local_ones(memory: Any) -> None:
    for name in ("/b/d/train.jsonl", "/b/d/test.jsonl", "/b/d/README.md"):
        memory.pipe(name, b"{}")
    assert find_files("memory://b/d/test.jsonl") == ["memory://b/d/test.jsonl"]
    assert find_files("memory://b/d") == ["memory://b/d/train.jsonl"]
    assert find_files("memory://b/d", "test") == ["memory://b/d/test.jsonl"]
    assert find_files("memory://b/*/t*l") == ["memory://b/d/test.jsonl", "memory://b/d/train.jsonl"]
    with pytest.raises(UserError, match=r"memory://b/none.json: nothing is there"):
        find_files("memory://b/none.json")
    with pytest.raises(UserError, match=r"nothing://a.json: nothing is known that reads nothing://"):
        find_files("nothing://a.json")
