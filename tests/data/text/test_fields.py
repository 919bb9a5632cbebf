"""Formats are told apart by their columns, and a column has one meaning."""

import re
from typing import Any

import pytest

from lodos.data.reading.rows import Row
from lodos.data.text.fields import (
    check_columns,
    column_of,
    columns_read,
    fields_of,
    is_fuller_than_text,
    recognise,
    unread_columns,
)
from lodos.errors import UserError

GOOD = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
PAIR = {"prompt": "1+1=", "completion": "2"}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]


def _rows(*fields: dict[str, Any]) -> list[Row]:
    return [Row("a.jsonl", number, of_row) for number, of_row in enumerate(fields, 1)]


# Which column is which field -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({}, {"instruction": "instruction", "input": "input", "output": "output", "system": "system"}),
        ({"instruction": "output", "output": "input"}, {"instruction": "output", "input": None, "output": "input"}),
        ({"instruction": "input", "input": "instruction"}, {"instruction": "input", "input": "instruction"}),
        ({"output": "text"}, {"text": None, "output": "text"}),
        ({"messages": "prompt"}, {"prompt": None, "messages": "prompt", "completion": "completion"}),
        ({"input": "system"}, {"system": None, "input": "system"}),
    ],
)
def test_a_column_that_was_given_away_is_no_other_field(columns: dict[str, str], found: dict[str, str | None]) -> None:
    assert {field: column_of(field, columns) for field in found} == found


def test_a_column_that_was_given_away_tells_no_format() -> None:
    (row,) = _rows({"question": "a", "text": "b"})
    assert recognise([row], {"instruction": "question", "output": "text"}) == "alpaca"
    assert fields_of(row, {"instruction": "question", "output": "text"}) == {"instruction", "output"}
    (row,) = _rows({"prompt": TALK})
    assert recognise([row], {"messages": "prompt"}) == "chat"
    (row,) = _rows({"input": "Translate: cat", "output": "chat"})
    assert recognise([row], {"instruction": "input"}) == "alpaca"
    assert fields_of(row, {"instruction": "input"}) == {"instruction", "output"}


def test_what_is_not_read_is_what_holds_something_and_has_no_field() -> None:
    (row,) = _rows({**GOOD, "id": 0, "url": None, "tags": [], "note": "", "messages": TALK, "question": "q"})

    def unread(name: str, **columns: str) -> list[str]:
        return unread_columns(row, columns_read(name, columns))

    assert unread("alpaca") == ["id", "messages", "question"]
    assert unread("alpaca", instruction="question") == ["instruction", "id", "messages"]
    assert unread("chat") == ["instruction", "input", "output", "id", "question"]


def test_a_column_is_given_to_one_field() -> None:
    with pytest.raises(UserError, match="columns: instruction and output are both 'text'"):
        check_columns({"instruction": "text", "output": "text"})
    with pytest.raises(UserError, match="messages is no field of alpaca, which has instruction, output, input"):
        check_columns({"messages": "m"}, "alpaca")
    with pytest.raises(
        UserError, match=r"'a' is no field of any format(.|\n)*must be the name of a column, found int 3"
    ):
        check_columns({"a": "b", "output": 3})  # pyright: ignore[reportArgumentType]


# Which format it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"prompt": TALK[:1], "completion": TALK[1:]}, "chat"),  # as TRL has it
        ({"prompt": TALK[:1], "messages": TALK}, "chat"),
        ({"system": "Be kind.", "conversations": SHAREGPT}, "chat"),
        ({**GOOD, "system": "Be kind.", "history": [["a", "b"]]}, "alpaca"),
        ({**GOOD, "prompt": "### Instruction: Add."}, "alpaca"),
    ],
)
def test_optional_fields_are_no_format(fields: dict[str, Any], name: str) -> None:
    assert recognise(_rows(fields)) == name


def test_preference_data_is_said_to_be_that() -> None:
    for fields in ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"chosen": TALK, "rejected": TALK}):
        with pytest.raises(UserError, match=r"preference data, for DPO .*completion: chosen"):
            recognise(_rows(fields))
    (row,) = _rows({"prompt": "a", "chosen": "b", "rejected": "c"})
    assert recognise([row], {"completion": "chosen"}) == "prompt_completion"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (GOOD, "alpaca"),
        ({"instruction": "a", "output": "b", "id": 1}, "alpaca"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion"),
        ({"messages": TALK, "prompt": "Hi"}, "chat"),  # as ultrachat has it
        ({"conversations": SHAREGPT, "tools": None, "text": None}, "chat"),
        ({"text": "a", "url": "b"}, "text"),
    ],
)
def test_formats_are_told_by_their_columns(fields: dict[str, Any], name: str) -> None:
    assert recognise(_rows(fields)) == name
    assert recognise(_rows({"broken": 1}, fields, {})) == name


def test_two_formats_that_fit_are_an_error_with_both() -> None:
    with pytest.raises(
        UserError,
        match=r"a.jsonl: the format is not clear: the columns 'instruction', 'input', 'output', 'messages' fit alpaca "
        r"and chat. Set format",
    ):
        recognise(_rows({**GOOD, "messages": TALK}))
    with pytest.raises(UserError, match="fit alpaca and chat"):
        recognise(_rows(GOOD, {"messages": TALK}))
    with pytest.raises(UserError, match="fit prompt_completion and chat"):
        recognise(_rows(PAIR, {"prompt": TALK[:1], "completion": TALK[1:]}))
    assert recognise(_rows({**GOOD, "messages": TALK}), {"output": "output"}) == "alpaca"


@pytest.mark.parametrize(
    ("fields", "name"),
    [(GOOD, "alpaca"), (PAIR, "prompt_completion"), ({"messages": TALK}, "chat")],
)
def test_the_same_once_more_as_text_does_not_count(fields: dict[str, Any], name: str) -> None:
    both = {**fields, "text": "all of it, rendered"}  # as tatsu-lab/alpaca has it
    assert recognise(_rows(both)) == name
    assert recognise(_rows({**both, "output": ""}, both)) == name
    assert recognise(_rows(both, dict.fromkeys(both))) == name
    assert is_fuller_than_text(name, _rows(both), {})
    assert not is_fuller_than_text(name, _rows(fields), {})
    with pytest.raises(UserError, match=rf"fit {name} and text. Set format"):
        recognise(_rows(both, {"text": "and this one alone"}))


def test_no_format_that_fits_is_an_error_with_what_each_needs() -> None:
    with pytest.raises(UserError) as error:
        recognise(_rows({"question": "a", "answer": "b"}))
    assert str(error.value).split("\n") == [
        "a.jsonl: no format fits the columns 'question', 'answer':",
        "  alpaca needs instruction, output",
        "  prompt_completion needs prompt, completion",
        "  chat needs messages or conversations",
        "  text needs text",
        "Set columns to our names and the file's, such as columns: {instruction: question, output: answer}.",
    ]
    with pytest.raises(UserError, match=r"alpaca needs output\n  prompt_completion has no instruction, which columns"):
        recognise(_rows({"question": "a", "answer": "b"}), {"instruction": "question"})
    with pytest.raises(UserError, match="alpaca needs its fields in one and the same row"):
        recognise(_rows({"instruction": "a"}, {"output": "b"}))
    with pytest.raises(UserError, match=r"alpaca needs output \(null in every row\)"):
        recognise(_rows({"instruction": "a", "output": None}))
    with pytest.raises(UserError, match="no rows"):
        recognise([])


def test_columns_are_checked() -> None:
    with pytest.raises(UserError, match=r"columns: 'instructions' is no field .*nearest: instruction"):
        recognise(_rows(GOOD), {"instructions": "question"})
    with pytest.raises(
        UserError, match=r"a.jsonl: columns: no row has 'answers' .*; the columns are 'question', 'answer'"
    ):
        recognise(_rows({"question": "a", "answer": "b"}), {"instruction": "question", "output": "answers"})
    with pytest.raises(UserError, match="output must be the name of a column, found int 3"):
        recognise(_rows(GOOD), {"output": 3})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"instruction;output": "a;b"}], "separated by semicolons, not by commas"),
        ([{"instruction\toutput": "a\tb"}], "separated by tabs"),
        ([{"Instruction": "a", " OUTPUT": "b"}], "columns: {instruction: 'Instruction', output: ' OUTPUT'}"),
        ([{"conversation": [{"role": "user", "content": "a"}]}], "columns: {messages: conversation}"),
        ([{"id": 1, "turns": [{"from": "human", "value": "a"}]}], "columns: {messages: turns}"),
        (
            [{"version": 1, "data": [{"instruction": "a", "output": "b"}]}],
            "'data' holds 1 objects: if these are the rows",
        ),
        ([{"0": {"prompt": "a", "completion": "b"}}], "The file is one object of objects"),
        ([{"instruction": ["a", "c"], "output": ["b", "d"]}], "a table by columns"),
        ([{"instruction": {"0": "a"}, "output": {"0": "b"}}], "a table by columns"),
    ],
)
def test_a_file_that_shows_what_was_meant_is_told_so(rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        recognise([Row("a.jsonl", i, fields) for i, fields in enumerate(rows, 1)])


def test_rows_with_lists_are_no_table() -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert recognise([Row("a.jsonl", 1, {"messages": talk, "tools": []})]) == "chat"
    assert recognise([Row("a.jsonl", 1, {"prompt": talk[:1], "completion": talk[1:]})]) == "chat"
