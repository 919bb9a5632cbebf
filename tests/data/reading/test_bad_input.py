"""Whatever a file holds, each row is read as it is written or an error leads to it: nothing is lost, nothing crashes.

The random changes below are to 10,000 rows in all and more: five formats, each with 100 files of 20 rows or more.
"""

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lodos.data.reading.rows import Row
from lodos.data.reading.sources import read_rows
from lodos.errors import UserError

MB = 2**20


def _outcome(path: Path) -> list[Row] | str:
    """The rows, or the error, which must name the file."""
    try:
        return read_rows(path)
    except UserError as error:
        if str(path) not in str(error):
            raise
        return str(error)


# Random changes.

_VALUES = st.none() | st.integers() | st.text(max_size=8) | st.lists(st.integers(), max_size=2)
_ROWS = st.lists(
    st.dictionaries(st.sampled_from(["instruction", "input", "output", "id"]), _VALUES), min_size=20, max_size=30
)
_CHANGES = st.lists(st.tuples(st.integers(0), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3)
_mutated = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def _changed(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, cut, put in changes:
        place %= len(content) + 1
        content = content[:place] + put + content[place + cut :]
    return content


def _plain(content: bytes) -> list[tuple[int, Any]]:
    """Numbers and rows as Python's own reader has them, all at once."""
    text = content.decode("utf-8-sig")
    if text.lstrip(" \t\r\n").startswith("["):
        return list(enumerate(json.loads(text), 1))
    return [(n, json.loads(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip(" \t\r")]


@given(rows=_ROWS, changes=_CHANGES, array=st.booleans())
@_mutated
def test_json_is_read_right_or_refused(tmp_path: Path, rows: list[Any], changes: Any, array: bool) -> None:
    content = _changed((json.dumps(rows) if array else "\n".join(map(json.dumps, rows))).encode(), changes)
    path = tmp_path / "a.json"
    path.write_bytes(content)
    found = _outcome(path)
    if not isinstance(found, str):
        assert [(r.number, r.fields) for r in found] == _plain(content)


@given(rows=_ROWS, changes=_CHANGES)
@_mutated
def test_gzip_is_read_right_or_refused(tmp_path: Path, rows: list[Any], changes: Any) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(_changed(gzip.compress("\n".join(map(json.dumps, rows)).encode(), mtime=0), changes))
    found = _outcome(path)
    if not isinstance(found, str):  # its checksum leaves no other way
        assert [r.fields for r in found] == rows


@given(rows=_ROWS, changes=_CHANGES)
@_mutated
def test_csv_is_read_right_or_refused(tmp_path: Path, rows: list[Any], changes: Any) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["a", "b"], *([i, json.dumps(row)] for i, row in enumerate(rows))])
    content = _changed(text.getvalue().encode(), changes)
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    found = _outcome(path)
    if not isinstance(found, str):
        plain = list(filter(None, csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))))
        assert [list(found[0].fields), *(list(r.fields.values()) for r in found)] == plain


@given(rows=st.lists(st.text(max_size=20), min_size=20, max_size=30), changes=_CHANGES)
@_mutated
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_tables_are_read_or_refused(tmp_path: Path, name: str, rows: list[str], changes: Any) -> None:
    path = tmp_path / name
    table = pa.table({"text": rows, "n": range(len(rows))})
    if name == "a.parquet":
        pq.write_table(table, path, write_page_checksum=True)
    else:
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    path.write_bytes(_changed(path.read_bytes(), changes))
    found = _outcome(path)
    # Values have no checksum in Arrow, so another text is another text; but rows must not get lost.
    assert isinstance(found, str) or [r.number for r in found] == list(range(1, len(rows) + 1))


@given(content=st.binary(max_size=40) | st.text(alphabet='{}[]":,\\ \n\tau1e', max_size=40).map(str.encode))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet", "a.arrow", "a"])
def test_any_bytes_are_rows_or_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = _outcome(tmp_path / name)
    assert found
    assert isinstance(found, str) or all(isinstance(row.fields, dict) for row in found)


# Sizes.


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_row_of_50_mb_is_kept(tmp_path: Path, name: str) -> None:
    rows = [{"text": "short"}, {"text": "é long " * (50 * MB // 8)}, {"text": "after"}]
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name == "a.csv":
        path.write_text("text\n" + "\n".join(row["text"] for row in rows), encoding="utf-8")
    else:
        text = json.dumps(rows, ensure_ascii=False)
        path.write_text(text if name == "a.json" else text[1:-1].replace("}, {", "}\n{"), encoding="utf-8")
    assert [r.fields for r in read_rows(path)] == rows


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("pack", [gzip.compress, _zstd], ids=["gz", "zst"])
@pytest.mark.parametrize(
    ("name", "opening"), [("a.jsonl", b'{"a": 1}\n{"a": "'), ("a.json", b'[{"a": 1}, {"a": "'), ("a.csv", b"a\n1\n")]
)
def test_a_decompression_bomb_is_an_error(
    tmp_path: Path, name: str, opening: bytes, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(pack(opening) + pack(b"x" * MB) * 4096)  # 4 GB unpacked
    assert path.stat().st_size < 8 * MB
    tracemalloc.start()
    found = _outcome(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{path}: it unpacks to more than 200 times its size" in str(found)
    assert peak < 64 * MB


# Everything else that the formats' own tests do not have.


def test_empty_files_and_folders_are_refused(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl.gz", "a.csv", "a.parquet", "a.arrow", "a"):
        (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
        assert "the file is empty" in str(_outcome(tmp_path / name))
    (tmp_path / "folder").mkdir()
    assert "no data in this folder" in str(_outcome(tmp_path / "folder"))


def test_one_bad_file_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n{"a": \n')
    assert str(_outcome(tmp_path)).startswith(f"{tmp_path}/b.jsonl, row 2, column 7: not valid JSON")
