"""Each value is the text that is written; a record that does not fit its header is refused."""

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodos.data.reading.csv_rows import csv_rows
from lodos.data.reading.open_file import MAX_ROW_BYTES
from lodos.data.reading.rows import Row
from lodos.errors import UserError


def _read(content: str | bytes, delimiter: str = ",", max_row: int = MAX_ROW_BYTES) -> list[Row]:
    content = content.encode() if isinstance(content, str) else content
    stream = io.BufferedReader(io.BytesIO(content))  # pyright: ignore[reportArgumentType]
    return list(csv_rows(stream, "a.csv", delimiter=delimiter, max_row=max_row))


def test_values_are_text_as_written() -> None:
    # pandas, hence `datasets`, reads these as null, null, 7.0 and 1.5.
    rows = _read("a,b\nNA,null\n007,1.50\n,  x \n")
    assert rows == [
        Row("a.csv", 1, {"a": "NA", "b": "null"}),
        Row("a.csv", 2, {"a": "007", "b": "1.50"}),
        Row("a.csv", 3, {"a": "", "b": "  x "}),
    ]


def test_numbers_count_records_and_errors_name_the_line_too() -> None:
    content = 'a,b\n"two\nlines","a ""word"", quoted"\r\n\n1,2\n'
    assert [(r.number, r.fields) for r in _read(content)] == [
        (1, {"a": "two\nlines", "b": 'a "word", quoted'}),
        (2, {"a": "1", "b": "2"}),
    ]
    with pytest.raises(
        UserError, match=re.escape("a.csv, row 3 (line 6): 1 values for the 2 columns a, b: list ['3']")
    ):
        _read(content + "3\n")


def test_byte_order_mark_and_tabs() -> None:
    assert [r.fields for r in _read("\ufeffa\tb\n1,5\t\ufeff2\n", delimiter="\t")] == [{"a": "1,5", "b": "\ufeff2"}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "a.csv: the file is empty"),
        ("\n\n", "a.csv: the file is empty"),
        ("a,b\n", "a.csv: the file has a header and no rows"),
        ("a,b,a\n1,2,3\n", "a.csv, line 1: columns named twice: 'a'"),
        ("a,b\n1,2\n1,2,3\n", "row 2 (line 3): 3 values for the 2 columns"),
        ('a,b\n1,2\n1,"x\ny', "row 2 (line 3): not valid CSV: unexpected end of data. A quotation mark is not closed"),
        ('a,b\n"x"y,2\n', "row 1 (line 2): not valid CSV: ',' expected after '\"'"),
        ("a,b\r1,2\r", r"line 1: not valid CSV: new-line character seen in unquoted field"),
        ("a,b\n1,\0\n", "row 1 (line 2): a NUL byte in line 2"),
        ("a,b\n1,2\n".encode("utf-16-le"), "a.csv, line 1: a NUL byte"),
        ("a,b\n1,2\n".encode("utf-16"), "a.csv, line 1: a NUL byte"),
        (
            b'a,b\n1,2\n"\n' + 'x","é"\n'.encode("cp1252"),
            "row 2 (line 3): byte 5 of line 4, 0xe9, is not UTF-8",
        ),
    ],
)
def test_a_broken_file_is_refused_with_the_spot(content: str | bytes, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        _read(content)


def test_a_long_value_is_read_and_one_beyond_the_bound_refused() -> None:
    long = "x" * 200_000  # csv's own limit is 131,072
    assert [r.fields for r in _read(f"a\n{long}\n")] == [{"a": long}]
    for content in (f"a\n1\n{long}\n", 'a\n1\n"' + "x\n" * 100_000):
        with pytest.raises(UserError, match=r"row 2 \(line 3\): longer than 9,999 bytes"):
            _read(content, max_row=9999)


_VALUE = st.text(alphabet='ab,;"\n\té \\', max_size=8)


@given(rows=st.lists(st.tuples(_VALUE, _VALUE), min_size=1, max_size=5))
@settings(deadline=None)
def test_what_is_written_is_read(rows: list[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("first", "second"), *rows])
    assert [tuple(r.fields.values()) for r in _read(text.getvalue())] == rows
