"""A conversation is what all the columns of its row say together."""

import re
from typing import Any

import pytest

from lodos.data.reading.rows import Row, RowError
from lodos.data.text.conversation import conversation_of
from lodos.data.text.formats import make_format

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
SYSTEM = {"role": "system", "content": "Be kind."}
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
TOOL = {"name": "weather", "description": "Of a town.", "parameters": {"type": "object", "properties": {}}}


def _of(columns: dict[str, str] | None = None, **fields: Any) -> Any:
    return conversation_of(Row("a.json", 1, fields), columns or {})


def _trained(tokenizer: Any, **fields: Any) -> tuple[str, list[str]]:
    example = make_format("chat", tokenizer=tokenizer).example(Row("a.json", 1, fields))
    return example.text, [example.text[start:end] for start, end in example.trained]


def test_a_system_column_is_the_system_turn(tiny_tokenizer: Any) -> None:
    for fields in ({"conversations": SHAREGPT}, {"messages": [USER, ANSWER]}, {"messages": [SYSTEM, USER, ANSWER]}):
        assert _of(system="Be kind.", **fields)[0] == [SYSTEM, USER, ANSWER]
    text, trained = _trained(tiny_tokenizer, system="Be kind.", conversations=SHAREGPT)
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>")
    assert trained == ["Hello!<|im_end|>"]
    for nothing in (None, "", " \n"):
        assert _of(system=nothing, conversations=SHAREGPT)[0] == [USER, ANSWER]
    assert _of({"system": "persona"}, persona="Be kind.", system="x", conversations=SHAREGPT)[0][0] == SYSTEM


@pytest.mark.parametrize("role", ["system", "developer"])
def test_two_system_turns_are_refused_unless_they_are_equal(role: str) -> None:
    with pytest.raises(
        RowError, match=r"system is 'Be rude\.', and the conversation has another system turn, 'Be kind\.'"
    ):
        _of(system="Be rude.", messages=[{**SYSTEM, "role": role}, USER, ANSWER])
    with pytest.raises(RowError, match="system must be text, found list"):
        _of(system=["Be rude."], messages=[USER, ANSWER])


def test_functions_are_tools_of_the_older_form() -> None:
    wrapped = {"type": "function", "function": TOOL}
    assert _of(messages=[USER, ANSWER], functions=[TOOL])[1] == [wrapped]
    assert _of(messages=[USER, ANSWER], functions=[wrapped])[1] == [wrapped]
    assert _of(messages=[USER, ANSWER], tools=[wrapped], functions=[])[1] == [wrapped]
    assert _of(messages=[USER, ANSWER], functions=None)[1] is None
    with pytest.raises(RowError, match="tools and functions are both there"):
        _of(messages=[USER, ANSWER], tools=[wrapped], functions=[TOOL])


def test_of_a_prompt_and_its_completion_the_completion_is_trained(tiny_tokenizer: Any) -> None:
    prompt = [SYSTEM, USER, {**ANSWER, "content": "Yes?"}, {**USER, "content": "Bye"}]
    text, trained = _trained(tiny_tokenizer, prompt=prompt, completion=[{**ANSWER, "content": "See you"}])
    assert trained == ["See you<|im_end|>"]
    assert text == _trained(tiny_tokenizer, messages=[*prompt, {**ANSWER, "content": "See you"}])[0]
    called = {"prompt": "q", "completion": "a"}
    row = Row("a.json", 1, {"q": prompt[1:2], "a": [ANSWER], "prompt": "in words", "messages": None})
    assert conversation_of(row, called)[0][-1] == ANSWER
    # What a turn of the prompt says of itself does not count.
    weighed = [USER, {**ANSWER, "train": True}, USER]
    assert _trained(tiny_tokenizer, prompt=weighed, completion=[ANSWER])[1] == ["Hello!<|im_end|>"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt": [USER, ANSWER], "completion": [ANSWER]}, "prompt[1] is the assistant's, with which the completion"),
        ({"prompt": [USER], "completion": "Hello!"}, "completion must be a list"),
        ({"prompt": "Hi", "completion": [ANSWER]}, "prompt must be a list"),
        (
            {"prompt": [USER], "completion": [ANSWER], "messages": [USER]},
            "messages and prompt with completion are both",
        ),
        ({"prompt": [USER], "completion": None}, "messages or conversations is missing"),
    ],
)
def test_what_is_no_prompt_and_completion_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RowError, match=re.escape(f"a.json, row 1: {says}")):
        _of(**fields)


def test_columns_choose_between_two_conversations() -> None:
    both = {"prompt": [USER], "completion": [ANSWER], "messages": [SYSTEM, USER, ANSWER]}
    assert len(_of({"messages": "messages"}, **both)[0]) == 3
    given_away = {"messages": "prompt"}
    assert _of(given_away, prompt=[USER, ANSWER], completion=[ANSWER])[0] == [USER, ANSWER]


def test_what_nothing_reads_is_named(tiny_tokenizer: Any) -> None:
    def unread(columns: dict[str, str] | None = None, **fields: Any) -> list[str]:
        return list(make_format("chat", tokenizer=tiny_tokenizer, columns=columns).unread(Row("a.json", 1, fields)))

    noted = {**USER, "id": 7, "name": None}
    assert unread(messages=[noted, ANSWER], prompt="Hi", id=3, system="Be kind.") == ["prompt", "id", "messages[].id"]
    knows_names = (
        "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.name if m.role == 'tool' }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant \n{% endif %}"
    )
    chat = make_format("chat", tokenizer=tiny_tokenizer, chat_template=knows_names)
    for role, names in (("user", ["messages[].name"]), ("tool", [])):
        messages = [USER, ANSWER, {**USER, "role": role, "name": "Ada"}, ANSWER]
        assert chat.unread(Row("a.json", 1, {"messages": messages})) == names
    assert unread(prompt=[noted], completion=[ANSWER], label=True) == ["label", "prompt[].id"]
    assert unread({"messages": "talk"}, talk=[USER, ANSWER], messages=[USER], tools=[TOOL]) == ["messages"]
