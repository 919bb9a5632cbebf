"""What is no file of rows is named for what it is, with what to do; what is one is read whatever it is called."""

import bz2
import gzip
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lodos.data.reading.file_kinds import READ_KINDS
from lodos.data.reading.sources import read_rows
from lodos.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"5" * 64 + b"\nsize 1234567\n"


def _zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")


def _tar(path: Path) -> None:
    (path.parent / "inside").write_text("{}")
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        archive.add(path.parent / "inside", "inside")


def _sqlite(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table rows (text)")
    connection.commit()
    connection.close()


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


OFFICE = "[Content_Types].xml"


@pytest.mark.parametrize(
    ("name", "make", "what", "advice"),
    [
        ("a.xlsx", lambda p: _zip(p, OFFICE, "xl/workbook.xml"), "an Excel workbook", "CSV UTF-8"),
        ("a.csv", lambda p: _zip(p, OFFICE, "xl/workbook.xml"), "an Excel workbook", "CSV UTF-8"),
        ("a.docx", lambda p: _zip(p, OFFICE, "word/document.xml"), "a Word document", "Take the text out"),
        ("a.zip", lambda p: _zip(p, "rows.jsonl"), "a ZIP archive", "Unpack it"),
        ("a.jsonl", lambda p: _zip(p, "rows.jsonl"), "a ZIP archive", "Unpack it"),
        ("a.pt", lambda p: _zip(p, "archive/data.pkl"), "a Python pickle", "never is"),
        ("a.pkl", lambda p: p.write_bytes(pickle.dumps([{"text": "a"}])), "a Python pickle", "never is"),
        ("a.json", lambda p: p.write_bytes(pickle.dumps([{"text": "a"}])), "a Python pickle", "never is"),
        ("a.tar", _tar, "a tar archive", "Unpack it"),
        ("a.tar.gz", _tar, "a tar archive", "Unpack it"),
        ("a.jsonl.bz2", _bytes(bz2.compress(b'{"text": "a"}')), "compressed with bzip2", "bunzip2"),
        ("a.jsonl.xz", _bytes(lzma.compress(b'{"text": "a"}')), "compressed with xz", "unxz"),
        ("a.pdf", _bytes(b"%PDF-1.7\n%\xe2\xe3"), "a PDF document", "Take the text out"),
        ("a.txt", _bytes(b"Once upon a time\nthere was\n"), "plain text", "JSON Lines"),
        ("a.txt.gz", _bytes(gzip.compress(b"Once upon a time")), "plain text", "JSON Lines"),
        ("a.md", _bytes("# Zürich".encode()), "a text document: it begins with '# Zürich'", "JSON Lines"),
        ("a", _bytes(b"prompt,completion\na,b\n"), "no file whose kind is known", "suffix"),
        ("a.csv", _bytes(b"<!DOCTYPE html>\n<html><body>Sign in</body>"), "a web page", "/resolve/"),
        ("a.json", _bytes(b"\n<html lang='en'>"), "a web page", "/resolve/"),
        ("a.xml", _bytes(b"<?xml version='1.0'?><rows/>"), "an XML document", "JSON Lines"),
        ("a.jsonl", _bytes('{"text": "a"}'.encode("utf-16")), "text in UTF-16", "UTF-8"),
        ("a.jsonl", _bytes('{"text": "a"}'.encode("utf-16-le")), "text in UTF-16", "UTF-8"),
        ("a.csv", _bytes("prompt,completion".encode("utf-16-be")), "text in UTF-16", "UTF-8"),
        ("a.db", _sqlite, "an SQLite database", "Parquet"),
        ("a.npy", lambda p: np.save(p, np.zeros(3)), "a NumPy array", "Parquet"),
        ("a.bin", _bytes(b"\x01\x02\x03\x04"), "a Python pickle: it begins with the bytes 01 02 03 04", "Parquet"),
    ],
)
def test_what_is_not_read_is_named(
    tmp_path: Path, name: str, make: Callable[[Path], object], what: str, advice: str
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(UserError) as error:
        read_rows(path)
    said = str(error.value)
    assert said.startswith(f"{path}: ")
    assert what in said
    assert advice in said
    assert READ_KINDS in said


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.arrow", "a", "a.jsonl.gz"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(UserError, match=r"a pointer of Git LFS, .*\(1,234,567 bytes\).*`git lfs pull`"):
        read_rows(tmp_path / name)


def test_a_table_or_text_under_the_name_of_the_other_is_said(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"a file of Parquet, though its name says JSON. Rename it to end in .parquet"):
        read_rows(tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match="JSON text, though its name says Parquet"):
        read_rows(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    with pytest.raises(UserError, match="a compressed file, though Parquet compresses"):
        read_rows(tmp_path / "b.parquet")


@pytest.mark.parametrize("name", ["a", "a.txt", "a.dump"])
def test_rows_are_read_under_any_other_name(tmp_path: Path, name: str) -> None:
    for content in (b'{"text": "a"}\n', b' \n[{"text": "a"}]', b'\xef\xbb\xbf{"text": "a"}'):
        (tmp_path / name).write_bytes(content)
        assert [row.fields for row in read_rows(tmp_path / name)] == [{"text": "a"}]
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / name)
    assert [row.fields for row in read_rows(tmp_path / name)] == [{"text": "a"}]


@pytest.mark.parametrize("header", ["ORC,text", "BZh,text", "PK,text", "GGUF,text", "Obj,text", "%PDF,text", "<html>"])
def test_no_header_of_a_csv_is_taken_for_another_kind(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{header},x\n1,2,3\n" if "," in header else f"a {header},b\n1,2\n")
    assert len(read_rows(path)) == 1


def test_maps_of_a_table_are_mappings(tmp_path: Path) -> None:
    kind = pa.map_(pa.string(), pa.int64())
    pq.write_table(pa.table({"arguments": pa.array([[("a", 1)], []], kind)}), tmp_path / "a.parquet")
    assert [row.fields for row in read_rows(tmp_path / "a.parquet")] == [{"arguments": {"a": 1}}, {"arguments": {}}]
    assert json.dumps([row.fields for row in read_rows(tmp_path / "a.parquet")])
