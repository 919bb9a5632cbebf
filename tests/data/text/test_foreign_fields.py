"""A column that means something elsewhere, and cannot be followed, refuses its row where that would change it."""

import re
from typing import Any

import pytest

from lodos.data.reading.rows import Row, RowError
from lodos.data.text.formats import make_format

ALPACA = {"instruction": "a", "output": "b"}
PAIR = {"prompt": "a", "completion": "b"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}


def _example(tokenizer: Any, name: str, fields: dict[str, Any], **options: Any) -> Any:
    return make_format(name, tokenizer=tokenizer, **options).example(Row("a.json", 1, fields))


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("alpaca", {**ALPACA, "images": ["cat.png"]}, "images holds pictures"),
        ("chat", {**CHAT, "image": {"path": "cat.png", "bytes": None}}, "image holds pictures"),
        ("chat", {**CHAT, "videos": ["a.mp4"]}, "videos holds films"),
        ("prompt_completion", {**PAIR, "audios": ["a.wav"]}, "audios holds sound"),
        ("alpaca", {**ALPACA, "kto_tag": False}, "kto_tag is false: the answer is one of the bad ones"),
        ("alpaca", {**ALPACA, "kto_tag": "False"}, "kto_tag is false"),
        ("prompt_completion", {**PAIR, "label": False}, "label is false: the answer is one of the bad ones"),
        ("prompt_completion", {**PAIR, "system": "Be kind."}, "system is a system turn, for which prompt_completion"),
        ("prompt_completion", {**PAIR, "history": [["a", "b"]]}, "history is earlier turns, for which"),
        ("alpaca", {**ALPACA, "tools": '[{"name": "f"}]'}, "tools is tools, for which alpaca has no place"),
        ("alpaca", {**ALPACA, "functions": [{"name": "f"}]}, "functions is tools, for which alpaca has no place"),
        ("chat", {**CHAT, "history": [["a", "b"]]}, "history is earlier turns, for which chat has no place"),
        (
            "chat",
            {**CHAT, "chat_template_kwargs": {"enable_thinking": False}},
            "chat_template_kwargs enable_thinking: the chat template asks for no such",
        ),
        ("chat", {**CHAT, "label": False}, "label is false: the answer is one of the bad ones"),
        ("alpaca", {**ALPACA, "context": "c"}, "context is what an instruction goes with (Dolly), and would be left"),
        ("alpaca", {**ALPACA, "system_prompt": "Be kind."}, "system_prompt is a system turn, and would be left out"),
        ("chat", {**CHAT, "system_message": "Be kind."}, "system_message is a system turn, and would be left out"),
        ("prompt_completion", {**PAIR, "system_prompt": "Be kind."}, "system_prompt is a system turn, for which"),
        (
            "chat",
            {"messages": CHAT["messages"][:1], "chosen": {"role": "assistant", "content": "b"}, "rejected": {"a": "c"}},
            "chosen and rejected hold the answer that the conversation ends before: preference data",
        ),
    ],
)
def test_what_changes_a_row_refuses_it(tiny_tokenizer: Any, name: str, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RowError, match=re.escape(f"a.json, row 1: {says}")):
        _example(tiny_tokenizer, name, fields)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("alpaca", {**ALPACA, "images": [], "videos": None, "tools": "", "functions": "[]", "label": False}),
        ("alpaca", {**ALPACA, "kto_tag": True, "label": 0}),
        ("prompt_completion", {**PAIR, "label": True, "system": " ", "history": "of the world"}),
        ("chat", {**CHAT, "chosen": "b", "rejected": "c", "chat_template_kwargs": {}}),  # as ultrafeedback has it
        ("alpaca", {**ALPACA, "input": "i", "context": "c", "system_prompt": " "}),
        ("chat", {**CHAT, "context": "c", "system_prompt": "Hi"}),  # a message says it
        ("prompt_completion", {**PAIR, "context": "c"}),
        ("text", {"text": "a cat", "image": "cat.png", "system": "Be kind."}),
    ],
)
def test_what_changes_nothing_does_not(tiny_tokenizer: Any, name: str, fields: dict[str, Any]) -> None:
    assert _example(tiny_tokenizer, name, fields).trained


def test_all_that_is_wrong_is_said_at_once(tiny_tokenizer: Any) -> None:
    with pytest.raises(RowError) as error:
        _example(tiny_tokenizer, "alpaca", {"instruction": "a", "output": 3, "images": ["a"], "kto_tag": False})
    assert [field for field, _ in error.value.problems] == ["output", "images", "kto_tag"]


def test_a_column_that_a_field_was_given_means_what_columns_say(tiny_tokenizer: Any) -> None:
    fields = {"instruction": "a", "image": "a sunset, described"}
    assert _example(tiny_tokenizer, "alpaca", fields, columns={"output": "image"}).text.endswith("described")


def test_another_name_of_a_field_can_be_given(tiny_tokenizer: Any) -> None:
    fields = {**ALPACA, "context": "c", "system_prompt": "Be kind."}
    columns = {"input": "context", "system": "system_prompt"}
    assert "Be kind." in _example(tiny_tokenizer, "alpaca", fields, columns=columns).text
