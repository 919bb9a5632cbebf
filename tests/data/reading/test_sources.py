"""What the config calls its data is read row by row, and hashed by all that the rows depend on."""

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lodos.data.reading.sources import DataSource, fingerprint, iter_rows, parse_sources, read_rows, source_files
from lodos.errors import UserError
from stores import web_server

ROWS = [{"question": f"é {i}", "answer": str(i)} for i in range(5)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def _write(folder: Path, name: str) -> Path:
    """The rows in the format that the name says."""
    path = folder / name
    table = pa.Table.from_pylist(ROWS)
    if name.endswith((".csv", ".tsv")):
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(ROWS[0]), delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    elif "parquet" in name:
        pq.write_table(table, path)
    elif "arrow" in name:
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)
    else:
        content = json.dumps(ROWS).encode() if ".json" in name and ".jsonl" not in name else JSONL
        if name.endswith(".zst"):
            with pa.output_stream(str(path), compression="zstd") as out:
                out.write(content)
        else:
            path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


NAMES = pytest.mark.parametrize(
    "name",
    [
        *("a.json", "a.jsonl", "a.json.gz", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.tsv", "a.parquet", "a.arrow"),
        *("no_suffix", "parquet_without_suffix", "arrow_without_suffix"),
    ],
)


@NAMES
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, name)
    rows = read_rows(path)
    assert [r.fields for r in rows] == ROWS
    assert [(r.file, r.number) for r in rows] == [(str(path), i) for i in range(1, 6)]


@NAMES
def test_a_remote_file_is_as_a_local_one(tmp_path: Path, name: str) -> None:
    system: Any = fsspec.filesystem("memory")
    system.pipe(f"/here/{name}", _write(tmp_path, name).read_bytes())
    url = f"memory://here/{name}"
    assert [(r.file, r.number, r.fields) for r in read_rows(url)] == [(url, i + 1, row) for i, row in enumerate(ROWS)]
    system.rm("/here", recursive=True)


def test_real_alpaca_is_read_whole(shared_data: Path) -> None:
    path = shared_data / "alpaca_en_999.json"
    assert [r.fields for r in read_rows(path)] == json.loads(path.read_text())


def test_the_files_of_a_folder_follow_one_another(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json"):
        _write(tmp_path, name)
    rows = read_rows(tmp_path)
    assert [(r.file, r.number) for r in rows] == [
        (f"{tmp_path}/{n}", i) for n in ("a.json", "b.jsonl") for i in range(1, 6)
    ]
    assert source_files(DataSource(str(tmp_path))) == [f"{tmp_path}/a.json", f"{tmp_path}/b.jsonl"]


def test_rows_come_before_the_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(JSONL * 100_000)[:-100])
    rows = iter_rows(DataSource(str(path)))
    assert [next(rows).number for _ in range(3)] == [1, 2, 3]
    read: list[int] = []
    with pytest.raises(UserError, match=r"a.jsonl.gz, after row \d+: .*cut short") as error:
        read.extend(row.number for row in rows)
    assert f"after row {read[-1]}:" in str(error.value)


def test_a_source_in_a_config() -> None:
    assert parse_sources("a.json") == (DataSource("a.json"),)
    assert parse_sources({"path": "a/b", "split": "test", "name": "c", "revision": "v1", "weight": 2}) == (
        DataSource("a/b", split="test", name="c", revision="v1", weight=2),
    )
    assert parse_sources(["a.json", {"path": "b.json", "weight": 0.5}]) == (
        DataSource("a.json"),
        DataSource("b.json", weight=0.5),
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], ["data: list [] is not a path, a mapping with a path, or a list of them."]),
        (7, ["data: int 7 is not a path, a mapping with a path, or a list of them."]),
        ("", ["data.path: is empty."]),
        ({"weight": 1}, ["data.path: is missing."]),
        ({"path": "a", "wieght": 1, "zzz": 2}, [
            "data.wieght: unknown. Did you mean weight?",
            "data.zzz: unknown. Known: path, split, name, revision, weight.",
        ]),
        (["a", 3, {"path": None}, {"path": "b", "revision": 1.0, "weight": 0}], [
            "data[1]: int 3 is neither a path nor a mapping with a path.",
            "data[2].path: null must be text. Put it in quotation marks.",
            "data[3].revision: float 1.0 must be text. Put it in quotation marks.",
            "data[3].weight: int 0 must be a number above 0.",
        ]),
        *(
            ({"path": "a", "weight": weight}, [f"data.weight: {shown} must be a number above 0."])
            for weight, shown in ((True, "bool True"), ("1", "'1'"), (float("nan"), "float nan"), (-1, "int -1"))
        ),
    ],
)  # fmt: skip
def test_all_that_is_wrong_with_the_sources_is_named_at_once(data: Any, says: list[str]) -> None:
    with pytest.raises(UserError) as error:
        parse_sources(data)
    assert str(error.value).split("\n") == says


def test_a_file_has_no_revision(tmp_path: Path) -> None:
    path = str(_write(tmp_path, "a.json"))
    for read in (source_files, fingerprint, lambda source: list(iter_rows(source))):
        with pytest.raises(UserError, match=r"a.json: name and revision: only data sets of the .* hub have that"):
            read(DataSource(path, name="main", revision="v1"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train-0.jsonl", "train-1.jsonl", "test.jsonl"):
        _write(tmp_path, name)
    return tmp_path


def test_the_fingerprint_is_of_contents_names_and_order(folder: Path) -> None:
    def found(**options: Any) -> str:
        return fingerprint(DataSource(str(folder), **options))

    first = found()
    assert found(weight=3) == found(split="train") == first != found(split="test")

    changed = folder / "train-1.jsonl"
    changed.write_bytes(JSONL.replace(b'"4"', b'"5"'))  # of the same size
    os.utime(changed, (1, 1))
    second = found()
    os.utime(changed, (2, 2))
    assert found() == second != first

    changed.rename(folder / "train-2.jsonl")  # rows carry the name
    third = found()
    _write(folder, "train-3.jsonl")
    assert len({first, second, third, found()}) == 4


def test_secrets_of_a_url_are_neither_in_rows_nor_in_errors() -> None:
    with web_server({"/a.jsonl": JSONL, "/broken.jsonl": 403}) as url:
        secret = url.replace("http://", "http://me:word@")
        rows = read_rows(f"{secret}/a.jsonl?signature=canary")
        assert {r.file for r in rows} == {f"{url}/a.jsonl"}
        with pytest.raises(UserError) as error:
            read_rows(f"{secret}/broken.jsonl?signature=canary")
    assert "canary" not in str(error.value)
    assert "word" not in str(error.value)
    assert f"{url}/broken.jsonl" in str(error.value)
