"""Every row is read with its number, or the error leads to the spot; none gets lost."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lodos.data.rows import Row
from lodos.data.sources import AlpacaRow, alpaca_rows, read_rows
from lodos.errors import UserError

GOOD = {"instruction": "Add.", "input": "1 and 2", "output": "3"}


def _read(path: Path, content: str | bytes) -> list[Row]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_rows(path)


def test_array_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{**GOOD, "output": str(i)} for i in range(3)]
    array = _read(tmp_path / "a.json", json.dumps(rows, indent=1))
    lines = _read(tmp_path / "b.json", "\n".join(map(json.dumps, rows)))
    assert [r.fields for r in array] == [r.fields for r in lines] == rows
    assert [r.number for r in array] == [r.number for r in lines] == [1, 2, 3]


def test_real_alpaca_is_read_whole(shared_data: Path) -> None:
    path = shared_data / "alpaca_en_999.json"
    rows = read_rows(path)
    assert [r.fields for r in rows] == json.loads(path.read_text())
    assert len(alpaca_rows(rows)) == 999


def test_byte_order_mark_blank_lines_and_crlf_lose_nothing(tmp_path: Path) -> None:
    line = json.dumps(GOOD)
    rows = _read(tmp_path / "a.jsonl", f"\ufeff{line}\r\n\r\n{line}\n\n  \n")
    assert [(r.number, r.fields) for r in rows] == [(1, GOOD), (3, GOOD)]  # numbers are lines
    assert [r.fields for r in _read(tmp_path / "b.json", f"\ufeff\n [{line}]\n")] == [GOOD]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_only_a_newline_ends_a_row(tmp_path: Path, separator: str) -> None:
    # `str.splitlines` cuts at these, which JSON allows inside a string.
    rows = _read(tmp_path / "a.jsonl", json.dumps({"output": f"a{separator}b"}, ensure_ascii=False))
    assert [r.fields for r in rows] == [{"output": f"a{separator}b"}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty"),
        (" \n\n", "empty"),
        ("[]", "no rows"),
        ('{"a": 1}\n{"a" 2}\n', "row 2, column 6: not valid JSON"),
        ('{"a": 1}\n{"a": "x\n{"a": 3}\n', "row 2, column 7: not valid JSON"),
        ('{"a": 1} {"a": 2}\n', "row 1, column 10: text after the end of the row"),
        ('[{"a": 1},\n {"a": 2\n]', "row 2, line 3, column 1: not valid JSON"),
        ('[{"a": 1}\n {"a": 2}]', "row 1, line 2, column 2: not valid JSON: expected ','"),
        ('[{"a": 1}, {"a": 2}', "row 2, column 20: not valid JSON: expected ',' or ']'"),
        ('[{"a": 1},]', "row 2, column 11: not valid JSON"),
        ('[{"a": 1}] tail', "column 12: not valid JSON: text after the end"),
        ('[{"a": 1}, 7]', "row 2: a row must be a JSON object, found int 7"),
        ('{"a": 1}\n"text"\n', "row 2: a row must be a JSON object, found 'text'"),
        ('{\n "a": 1\n}\n', "must stand on one line"),
        ('{"a": 1}\n{"b": 1, "b": 2}\n', "row 2: the field 'b' is given twice"),
        (b'{"a": 1}\n{"a": "\xe9"}\n', "line 2, byte 8: not UTF-8"),
        ('{"a": 1}\n'.encode("utf-16"), "not UTF-8"),
        ("[" * 100_000, "row 1: "),
        ('{"a": ' + "9" * 5000 + "}", "row 1: "),
    ],
)
def test_a_broken_file_is_refused_with_the_spot(tmp_path: Path, content: str | bytes, says: str) -> None:
    path = tmp_path / "bad.json"
    with pytest.raises(UserError, match=re.escape(says)) as error:
        _read(path, content)
    assert str(error.value).startswith(str(path))


def test_what_is_no_local_file_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file.*Give a local JSON or JSONL file"):
        read_rows(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"tatsu-lab/alpaca: there is no such file.*downloaded first"):
        read_rows("tatsu-lab/alpaca")
    with pytest.raises(UserError, match="folder"):
        read_rows(tmp_path)
    with pytest.raises(UserError, match=r"gs://bucket/a.json: remote data"):
        read_rows("gs://bucket/a.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_rows("nul\0byte.json")


def test_no_input_is_missing_null_or_empty(write_jsonl: Callable[..., Path]) -> None:
    bare = {"instruction": "Go.", "output": "Gone."}
    path = write_jsonl(bare, {**bare, "input": None}, {**bare, "input": ""}, {**bare, "other": [1]})
    assert alpaca_rows(read_rows(path)) == [AlpacaRow(str(path), n, "Go.", "", "Gone.") for n in (1, 2, 3, 4)]


def test_all_wrong_rows_are_named_at_once(write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl(
        GOOD,
        {"instruction": "", "output": 7},
        {**GOOD, "input": ["x"]},
        {"text": "hello"},
        {**GOOD, "output": None},
        {**GOOD, "output": " \n"},
    )
    with pytest.raises(UserError) as error:
        alpaca_rows(read_rows(path))
    assert str(error.value).split("\n") == [
        "5 of 6 rows are not in the Alpaca format (instruction, input, output):",
        f"  {path}, row 2: instruction is empty, found ''.",
        f"  {path}, row 2: output must be text, found int 7.",
        f"  {path}, row 3: input must be text, found list ['x'].",
        f"  {path}, row 4: instruction is missing; the row has 'text'.",
        f"  {path}, row 4: output is missing; the row has 'text'.",
        f"  {path}, row 5: output must be text, found null.",
        f"  {path}, row 6: output is empty, found ' \\n'.",
        "Mend these rows or take them out of the file.",
    ]


def test_many_wrong_rows_are_counted(write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as error:
        alpaca_rows(read_rows(write_jsonl(*[{**GOOD, "output": ""}] * 25)))
    lines = str(error.value).split("\n")
    assert lines[0].startswith("25 of 25 rows")
    assert lines[10].endswith("row 10: output is empty, found ''.")
    assert lines[11] == "  and 15 more."


def test_half_a_surrogate_pair_is_refused_by_row(tmp_path: Path) -> None:
    rows = _read(tmp_path / "a.jsonl", '{"instruction": "a", "output": "\\ud83d"}')
    with pytest.raises(UserError, match=r"row 1: output holds half a surrogate pair.*\\ud83d"):
        alpaca_rows(rows)


_VALUES = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
_ROWS = st.lists(
    st.dictionaries(st.sampled_from(["instruction", "input", "output", "id"]), _VALUES),
    min_size=1,
    max_size=5,
)


@given(rows=_ROWS, place=st.integers(0), cut=st.integers(0, 3), put=st.binary(max_size=3), array=st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_file_is_read_right_or_refused(
    tmp_path: Path, rows: list[Any], place: int, cut: int, put: bytes, array: bool
) -> None:
    content = (json.dumps(rows) if array else "\n".join(map(json.dumps, rows))).encode()
    place %= len(content) + 1
    content = content[:place] + put + content[place + cut :]
    path = tmp_path / "mutated.json"
    try:
        read = _read(path, content)
        alpaca = alpaca_rows(read)
    except UserError as error:
        if str(path) not in str(error):
            raise
        return
    # What is accepted is what the plain reader makes of it: nothing lost, nothing moved.
    text = content.decode("utf-8-sig")
    if text.lstrip(" \t\r\n").startswith("["):
        expected = list(enumerate(json.loads(text), 1))
    else:
        expected = [(n, json.loads(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip(" \t\r")]
    assert [(r.number, r.fields) for r in read] == expected
    assert len(alpaca) == len(expected)


@given(content=st.binary(max_size=40) | st.text(alphabet='{}[]":,\\ \n\tau1e', max_size=40).map(str.encode))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_rows_or_a_user_error(tmp_path: Path, content: bytes) -> None:
    try:
        rows = _read(tmp_path / "any.json", content)
    except UserError as error:
        if "any.json" not in str(error):
            raise
    else:
        assert rows
        assert all(isinstance(row.fields, dict) for row in rows)
