"""Every row is read with its number, wherever the window cuts it, or the error leads to the spot."""

import io
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodos.data.reading import json_rows as module
from lodos.data.reading.json_rows import json_rows
from lodos.data.reading.rows import Row
from lodos.errors import UserError


class Drip(io.RawIOBase):
    """Gives its bytes a few at a time, as a slow pipe does, so that everything is cut somewhere."""

    def __init__(self, content: bytes, at_once: int):
        super().__init__()
        self._rest, self._at_once = content, at_once

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._rest[: min(self._at_once, len(buffer))]
        self._rest = self._rest[len(part) :]
        buffer[: len(part)] = part
        return len(part)


def _read(content: str | bytes, at_once: int = 2**20, **options: Any) -> list[Row]:
    content = content.encode() if isinstance(content, str) else content
    return list(json_rows(io.BufferedReader(Drip(content, at_once)), "a.json", **options))


def _outcome(content: bytes, at_once: int) -> list[Row] | str:
    try:
        return _read(content, at_once)
    except UserError as error:
        return str(error)


def test_array_and_jsonl_give_the_same_rows() -> None:
    rows = [{"text": "a", "n": i, "more": [{"x": None}]} for i in range(3)]
    array = _read(json.dumps(rows, indent=1))
    assert array == _read("\n".join(map(json.dumps, rows)))
    assert [(r.file, r.number, r.fields) for r in array] == [("a.json", i + 1, rows[i]) for i in range(3)]


def test_byte_order_mark_blank_lines_and_crlf_lose_nothing() -> None:
    rows = _read('\ufeff\r\n {"a": 1}\r\n\r\n{"a": 2}\n\n  \n')
    assert [(r.number, r.fields) for r in rows] == [(2, {"a": 1}), (4, {"a": 2})]  # numbers are lines
    assert [r.fields for r in _read('\ufeff\n [ {"a": 1}\t,\r\n{} ]\n')] == [{"a": 1}, {}]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\ufeff", "\\u0000"])
def test_only_a_newline_ends_a_row(separator: str) -> None:
    # `str.splitlines` cuts at the first three, which JSON allows inside a string.
    assert [r.fields for r in _read(f'{{"a": "b{separator}c"}}\n{{}}')] == [json.loads(f'{{"a": "b{separator}c"}}'), {}]


def test_rows_of_differing_fields_and_types_keep_their_own() -> None:
    rows: list[dict[str, Any]] = [{"a": 1}, {"a": "x", "b": [1, "y"]}, {}, {"a": None}, {"c": {"d": 1.5}}]
    assert [r.fields for r in _read(json.dumps(rows))] == rows


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "a.json: the file is empty"),
        (" \n\n", "a.json: the file is empty"),
        ("\ufeff", "a.json: the file is empty"),
        ("[]", "a.json: the array has no rows"),
        ('{"a": 1}\n{"a" 2}\n', "a.json, row 2, column 6: not valid JSON: Expecting ':'"),
        ('{"a": 1}\n{"a": "x\n{"a": 3}\n', "row 2, column 7: not valid JSON: Unterminated string"),
        ('{"a": 1}\n\n{"a": "x', "row 3, column 7: not valid JSON: Unterminated string"),
        ('{"a": 1} {"a": 2}\n', "row 1, column 10: not valid JSON: text after the end of the row"),
        ('{"a": 1}\n  {"a" 2}', "row 2, column 8: not valid JSON"),
        ('{"a": "b\0c"}', "row 1, column 9: not valid JSON: Invalid control character"),
        ('{"a": 1}\n\0\n', "row 2, column 1: not valid JSON"),
        ('[{"a": 1},\n {"a": 2\n]', "row 2, line 3, column 1: not valid JSON"),
        ('[{"a": 1}\n {"a": 2}]', "row 1, line 2, column 2: not valid JSON: expected ',' or ']'"),
        (
            '[{"a": 1}, {"a": 2}',
            "row 2, line 1, column 20: not valid JSON: expected ',' or ']' after the row, the file",
        ),
        ('[{"a": 1},]', "row 2, line 1, column 11: not valid JSON"),
        ('[{"a": 1},', "row 2, line 1, column 11: not valid JSON"),
        ("[", "row 1, line 1, column 2: not valid JSON"),
        ('[{"a": 1}] tail', "row 1, line 1, column 12: not valid JSON: text after the end of the array"),
        ('[{"a": 1}, 7]', "row 2: a row must be a JSON object, found int 7"),
        ('{"a": 1}\n"text"\n', "row 2: a row must be a JSON object, found 'text'"),
        ("null", "row 1: a row must be a JSON object, found null"),
        ('{\n "a": 1\n}\n', "must stand on one line"),
        ('{"a": 1}\n{"b": 1, "b": 2}\n', "row 2: the field 'b' is given twice"),
        (b'{"a": 1}\n{"a": "\xe9"}\n', "row 2, column 8: byte 0xe9 is not UTF-8"),
        ('{"a": "é"}\n'.encode() + '{"a": "é"}\n'.encode("cp1252"), "row 2, column 8: byte 0xe9 is not UTF-8"),
        (b'[{"a": 1},\n{"a": "x\xff"}]', "row 2, line 2, column 9: byte 0xff is not UTF-8"),
        (b'{"a": "\xc3', "row 1, column 8: byte 0xc3 is not UTF-8 text (unexpected end of data)"),
        ('{"a": 1}\n'.encode("utf-16"), "line 1, column 1: byte 0xff is not UTF-8"),
        ("[" * 100_000, "row 1: "),
        ('{"a": ' + "9" * 5000 + "}", "row 1: "),
    ],
)
def test_a_broken_file_is_refused_with_the_spot(content: str | bytes, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as error:
        _read(content)
    assert str(error.value).startswith("a.json")


def test_the_rows_before_the_broken_one_are_given() -> None:
    for content in (
        b'{"a": 1}\n{"a": 2}\n{"a": "\xff"}',
        b'[{"a": 1}, {"a": 2}, {"a": "\xff"}]',
        b'[{"a": 1}, {"a": 2}, {',
    ):
        rows = json_rows(io.BufferedReader(io.BytesIO(content)), "a.json")  # pyright: ignore[reportArgumentType]
        assert [next(rows).fields, next(rows).fields] == [{"a": 1}, {"a": 2}]
        with pytest.raises(UserError, match="row 3"):
            next(rows)


_TEXT = st.text(alphabet='ab é€😀"\\\n{}[],:7.eE-+', max_size=12)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT, st.lists, max_leaves=4
)
_ROWS = st.lists(st.dictionaries(_TEXT, _VALUES, max_size=3), min_size=1, max_size=4)


@given(rows=_ROWS, at_once=st.integers(1, 7), array=st.booleans(), ascii_only=st.booleans())
@settings(max_examples=300, deadline=None)
def test_where_the_window_cuts_makes_no_difference(
    rows: list[Any], at_once: int, array: bool, ascii_only: bool
) -> None:
    content = json.dumps(rows, ensure_ascii=ascii_only)
    if not array:
        content = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    assert [r.fields for r in _read(content, at_once)] == rows


@given(rows=_ROWS, at_once=st.integers(1, 7), place=st.integers(0), put=st.binary(max_size=2), array=st.booleans())
@settings(max_examples=300, deadline=None)
def test_nor_for_the_error(rows: list[Any], at_once: int, place: int, put: bytes, array: bool) -> None:
    content = (json.dumps(rows, indent=0) if array else "\n".join(map(json.dumps, rows))).encode()
    place %= len(content) + 1
    content = content[:place] + put + content[place + 1 :]
    assert _outcome(content, at_once) == _outcome(content, 2**20)


def test_a_long_array_is_read_in_passing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 64)
    rows = [{"text": "x" * (i % 90), "i": i} for i in range(500)]
    window: list[int] = []
    monkeypatch.setattr(module._Window, "_slide", _watched(module._Window._slide, window))
    for content in (json.dumps(rows), "\n".join(map(json.dumps, rows))):
        window.clear()
        assert [r.fields for r in _read(content)] == rows
        assert max(window) < 64 + 2 * 130  # a chunk and the longest row, far less than the file


def _watched(slide: Any, window: list[int]) -> Any:
    def watched(self: Any, new: str) -> None:
        slide(self, new)
        window.append(len(self._text))

    return watched


@pytest.mark.parametrize("opening", ['{"a": "', '[{"a": 1}, {"a": "', "[" + " " * 5000 + '{"a": "', '[{"a": [1,'])
def test_a_row_beyond_the_bound_is_refused(opening: str) -> None:
    with pytest.raises(UserError, match=r"a.json, row \d: longer than 1,000 characters"):
        _read(opening + "1," * 5000, at_once=100, max_row=1000)


def test_a_row_within_the_bound_is_read_though_the_file_is_longer() -> None:
    rows = [{"a": "x" * 900}] * 10
    for content in (json.dumps(rows), "\n".join(map(json.dumps, rows)), "[" + " " * 5000 + json.dumps(rows)[1:]):
        assert [r.fields for r in _read(content, max_row=1000)] == rows
