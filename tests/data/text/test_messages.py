"""Messages are what templates want, whichever words the file has for them; a misspelt role is never passed on."""

import json
from typing import Any

import pytest

from lodos.data.reading.rows import Row, RowError
from lodos.data.text.messages import is_blank, messages_of, tools_of

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def _row(**fields: Any) -> Row:
    return Row("a.jsonl", 3, fields)


def test_sharegpt_is_put_into_openais_words() -> None:
    given = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello!", "weight": None},
    ]
    assert messages_of(_row(conversations=given), "conversations") == [
        {"role": "system", "content": "Be brief."},
        *TALK,
    ]


def test_all_keys_pass_through_but_nulls(write_jsonl: Any) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}], "name": "a"}
    told = {key: value for key, value in call.items() if key != "content"}
    assert messages_of(_row(messages=[TALK[0], call]), "messages") == [TALK[0], told]


def test_lists_may_be_json_text() -> None:
    assert messages_of(_row(messages=json.dumps(TALK)), "messages") == TALK
    assert tools_of(_row(tools='[{"name": "f"}]'), "tools") == [{"name": "f"}]


def test_no_tools_are_missing_null_or_empty() -> None:
    assert [tools_of(row, "tools") for row in (_row(), _row(tools=None), _row(tools=[]), _row(tools="[]"))] == [
        None
    ] * 4


@pytest.mark.parametrize("tools", ["weather", {"name": "f"}, ["weather"], 3, '{"name": "f"}'])
def test_bad_tools_are_refused(tools: Any) -> None:
    with pytest.raises(RowError, match=r"a.jsonl, row 3: tools must be a list"):
        tools_of(_row(tools=tools), "tools")


@pytest.mark.parametrize("messages", [[], "Hi", {"role": "user"}, 3, "[1", "[" * 100_000])
def test_what_is_no_list_of_messages_is_refused(messages: Any) -> None:
    with pytest.raises(RowError, match=r"a.jsonl, row 3: messages must be a list") as error:
        messages_of(_row(messages=messages), "messages")
    assert len(str(error.value)) < 200


def test_all_wrong_messages_are_named_at_once() -> None:
    with pytest.raises(RowError) as error:
        messages_of(
            _row(
                messages=[
                    TALK[0],
                    "Hello",
                    {"content": "x"},
                    {"role": "asistant", "content": "x"},
                    {"role": "user"},
                    {"role": "user", "content": 7},
                    {"from": "bard", "value": "x"},
                    {"role": ["user"], "content": "x"},
                ]
            ),
            "messages",
        )
    assert str(error.value).split("\n") == [
        "a.jsonl, row 3: messages[1] must be a message with role and content, found 'Hello'.",
        "a.jsonl, row 3: messages[2] has no role; it has 'content'.",
        "a.jsonl, row 3: messages[3] has the role 'asistant', which is not one of system, developer, user, assistant, "
        "tool, function, ipython.",
        "a.jsonl, row 3: messages[4] has no content; it has 'role'.",
        "a.jsonl, row 3: messages[5] must have text as content, found int 7.",
        "a.jsonl, row 3: messages[6] has the role 'bard', which is not one of system, human, user, gpt, chatgpt, "
        "assistant, tool, observation.",
        "a.jsonl, row 3: messages[7] has the role list ['user'], which is not one of system, developer, user, "
        "assistant, tool, function, ipython.",
    ]
    assert (error.value.where, error.value.field) == ("a.jsonl, row 3", "messages[1]")


def test_a_message_is_blank_when_it_says_and_calls_nothing() -> None:
    assert [is_blank(m) for m in ({"content": " \n"}, {"content": []}, {}, {"content": ""})] == [True] * 4
    assert not is_blank({"content": "x"})
    assert not is_blank({"tool_calls": [{}]})
    assert not is_blank({"content": [{"type": "image"}]})
