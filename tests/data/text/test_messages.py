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


def test_all_keys_pass_through_but_nulls() -> None:
    calls = [{"function": {"name": "f", "arguments": {}}}]
    call = {"role": "assistant", "content": None, "tool_calls": calls, "name": "a"}
    told = {key: value for key, value in call.items() if key != "content"}
    assert messages_of(_row(messages=[TALK[0], call]), "messages") == [TALK[0], told]


def test_lists_may_be_json_text() -> None:
    assert messages_of(_row(messages=json.dumps(TALK)), "messages") == TALK
    assert tools_of(_row(tools='[{"name": "f"}]'), "tools") == [{"name": "f"}]


def test_no_tools_are_missing_null_or_empty() -> None:
    assert [tools_of(row, "tools") for row in (_row(), _row(tools=None), _row(tools=[]), _row(tools="[]"))] == [
        None
    ] * 4


def test_empty_tool_calls_are_as_if_they_were_not_there() -> None:
    for empty in ([], None, "[]"):
        talk = [TALK[0], {**TALK[1], "tool_calls": empty}]
        assert messages_of(_row(messages=talk), "messages") == TALK
    assert tools_of(_row(tools="null"), "tools") is None


def test_sharegpts_calls_are_calls() -> None:
    call = {"name": "f", "arguments": {"a": 1}}
    calls = [{"type": "function", "function": call}]
    for value in (json.dumps(call), json.dumps([call]), json.dumps({**call, "arguments": '{"a": 1}'})):
        given = [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": value}]
        told = messages_of(_row(conversations=given), "conversations")
        assert told == [TALK[0], {"role": "assistant", "tool_calls": calls}]
    with pytest.raises(RowError, match="found text that is not JSON"):
        messages_of(_row(conversations=[{"from": "function_call", "value": "f(1)"}]), "conversations")


def test_a_null_answer_is_an_empty_one() -> None:
    for answer in ({"role": "assistant", "content": None}, {"role": "assistant", "content": None, "function_call": {}}):
        assert messages_of(_row(messages=[TALK[0], answer]), "messages") == [
            TALK[0],
            {"role": "assistant", "content": ""},
        ]
    for bad in ({"role": "assistant"}, {"role": "user", "content": None}):
        with pytest.raises(RowError, match="has no content"):
            messages_of(_row(messages=[bad]), "messages")


def test_what_was_thought_goes_by_one_name_too() -> None:
    for key in ("reasoning_content", "thinking", "reasoning"):
        (_, told) = messages_of(_row(messages=[TALK[0], {**TALK[1], key: "Hm."}]), "messages")
        assert told == {**TALK[1], key: "Hm.", "reasoning_content": "Hm."}
        assert messages_of(_row(messages=[TALK[0], {**TALK[1], key: " "}]), "messages") == TALK


def test_a_function_call_of_old_is_a_tool_call() -> None:
    old = {"role": "assistant", "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    (_, told) = messages_of(_row(messages=[TALK[0], old]), "messages")
    assert told == {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
    }


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            {"content": [{"type": "image_url", "image_url": {}}]},
            r"messages\[1\].content\[0\] is of the type 'image_url'",
        ),
        ({"content": ["Look", {"type": "input_audio"}]}, r"messages\[1\].content\[1\] is of the type 'input_audio'"),
        ({"content": [{"type": "text", "text": 3}]}, r"messages\[1\].content\[0\] must be text"),
        (
            {"tool_calls": [{"name": "f", "arguments": "{'a': 1}"}]},
            r"tool_calls\[0\].arguments is text that is not JSON",
        ),
        (
            {"tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
            r"tool_calls\[0\].function.arguments must be a JSON object",
        ),
        ({"tool_calls": [{"arguments": {}}]}, r"tool_calls\[0\] must have the name of a function"),
        ({"tool_calls": ["f()"]}, r"tool_calls\[0\] must be a tool call"),
        ({"tool_calls": 3}, r"messages\[1\].tool_calls must be a list of tool calls"),
        ({"function_call": {"name": "f", "arguments": "f"}}, r"function_call.arguments is text that is not JSON"),
        ({"content": "a", "thinking": ["b"]}, r"messages\[1\].thinking must be text"),
        (
            {"content": "a", "thinking": "b", "reasoning": "c"},
            r"messages\[1\] has different texts as thinking and reasoning",
        ),
        ({"content": "a", "weight": 0.5}, r"messages\[1\].weight must be 0 or 1, or true or false, found float 0.5"),
        ({"content": "a", "train": "yes"}, r"messages\[1\].train must be 0 or 1"),
        ({"content": "a", "weight": 0, "train": True}, r"messages\[1\] says both .*\(weight and train\)"),
        ({"content": "a", "train_detail": [{"train": False}]}, r"messages\[1\].train_detail says which parts"),
    ],
)
def test_what_cannot_be_put_into_one_form_is_named(message: Any, says: str) -> None:
    with pytest.raises(RowError, match=says):
        messages_of(_row(messages=[TALK[0], {"role": "assistant", **message}]), "messages")


def test_only_the_assistants_messages_can_be_trained() -> None:
    with pytest.raises(RowError, match=r"messages\[0\].train is for the assistant's messages"):
        messages_of(_row(messages=[{**TALK[0], "train": True}, TALK[1]]), "messages")
    assert messages_of(_row(messages=[{**TALK[0], "weight": 0}, TALK[1]]), "messages")


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
        "bot, model, assistant, tool, observation, function_call.",
        "a.jsonl, row 3: messages[7] has the role list ['user'], which is not one of system, developer, user, "
        "assistant, tool, function, ipython.",
    ]
    assert (error.value.where, error.value.field) == ("a.jsonl, row 3", "messages[1]")


def test_a_message_is_blank_when_it_says_and_calls_nothing() -> None:
    assert [is_blank(m) for m in ({"content": " \n"}, {"content": []}, {}, {"content": ""})] == [True] * 4
    assert not is_blank({"content": "x"})
    assert not is_blank({"tool_calls": [{}]})
    assert is_blank({"content": [{"type": "text", "text": "\n"}]})
    assert not is_blank({"content": [{"type": "text", "text": "x"}]})


def test_what_was_refused_is_not_taken_for_nothing() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "refusal": "No."}]
    with pytest.raises(RowError, match=r"messages\[1\]\.refusal is what it said, and its content is empty"):
        messages_of(Row("a.jsonl", 1, {"messages": turns}), "messages")
    said = [turns[0], {"role": "assistant", "content": "b", "refusal": None}]
    assert messages_of(Row("a.jsonl", 1, {"messages": said}), "messages")[1]["content"] == "b"
