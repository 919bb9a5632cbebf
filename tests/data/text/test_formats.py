"""Rows of every format become the text that is meant, or an error that names row and field; formats are told apart."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodos.data.examples import TextExample
from lodos.data.reading.rows import Row, RowError
from lodos.data.reading.sources import read_rows
from lodos.data.text.fields import FORMATS, recognise
from lodos.data.text.formats import Format, make_format
from lodos.errors import UserError

GOOD = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]

Make = Callable[..., Format]


@pytest.fixture
def make(tiny_tokenizer: Any) -> Make:
    """`make(name, **options)`: a format with the tiny tokenizer."""

    def of(name: str, **options: Any) -> Format:
        return make_format(name, tokenizer=tiny_tokenizer, **options)

    return of


def _rows(*fields: dict[str, Any]) -> list[Row]:
    return [Row("a.jsonl", number, of_row) for number, of_row in enumerate(fields, 1)]


def _parts(example: TextExample) -> list[str]:
    """The context before the trained text, and the trained text."""
    ((start, end),) = example.trained
    assert end == len(example.text)
    return [example.text[:start], example.text[start:]]


# Texts ---------------------------------------------------------------------------------------------------------------


def test_alpaca_is_the_prompt_and_then_the_output(make: Make) -> None:
    prompts = {"prompt_input": "<{instruction}|{input}>", "prompt_no_input": "<{instruction}>"}
    alpaca = make("alpaca", prompts=prompts)
    bare = {"instruction": "Go.", "output": "Gone."}
    rows = _rows(GOOD, bare, {**bare, "input": None}, {**bare, "input": "", "other": [1]})
    assert [_parts(alpaca.example(row)) for row in rows] == [["<Add.|1 and 2>", "3"], *[["<Go.>", "Gone."]] * 3]
    example = alpaca.example(rows[1])
    assert (example.where, example.has_special_tokens) == ("a.jsonl, row 2", False)
    assert make("alpaca").example(rows[0]).text.endswith("### Input:\n1 and 2\n\n### Response:3")


def test_prompt_and_completion_are_put_together_as_they_are(make: Make) -> None:
    (row, free) = _rows({"prompt": "1+1=", "completion": " 2\n"}, {"prompt": "", "completion": "Once"})
    assert _parts(make("prompt_completion").example(row)) == ["1+1=", " 2\n"]
    assert _parts(make("prompt_completion").example(free)) == ["", "Once"]


def test_of_text_everything_is_trained(make: Make) -> None:
    (row,) = _rows({"text": " Once upon"})
    assert _parts(make("text").example(row)) == ["", " Once upon"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [("alpaca", GOOD), ("prompt_completion", {"prompt": "a", "completion": "b"}), ("chat", {"messages": TALK})],
)
def test_without_mask_everything_is_trained(make: Make, name: str, fields: dict[str, Any]) -> None:
    (row,) = _rows(fields)
    masked, whole = make(name).example(row), make(name, mask_inputs=False).example(row)
    assert whole.text == masked.text
    assert whole.trained == ((0, len(whole.text)),) != masked.trained


@pytest.mark.parametrize("fields", [{"messages": TALK}, {"conversations": SHAREGPT}, {"conversations": TALK}])
def test_both_forms_of_chat_are_the_same_text(make: Make, fields: dict[str, Any]) -> None:
    (row,) = _rows(fields)
    example = make("chat").example(row)
    assert example.text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
    assert [example.text[start:end] for start, end in example.trained] == ["Hello!<|im_end|>"]
    assert example.has_special_tokens


def test_chat_options_reach_the_template(make: Make) -> None:
    (row,) = _rows({"messages": TALK * 2, "tools": [{"name": "weather"}]})
    listing = "{{ tools[0].name }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    example = make("chat", chat_template=listing, train_on_turns="last").example(row)
    assert example.text == "weather" + "[user]Hi[assistant]Hello!" * 2
    assert [example.text[start:end] for start, end in example.trained] == ["[assistant]Hello!"]


def test_gsm8k_is_two_lines_of_yaml(shared_data: Path, make: Make) -> None:
    rows = read_rows(shared_data / "gsm8k_train.jsonl")
    columns = {"instruction": "question", "output": "answer"}
    assert recognise(rows[:100], columns) == "alpaca"
    alpaca = make("alpaca", columns=columns)
    assert alpaca.describe() == "alpaca: instruction=question, input, output=answer"
    for row in rows:
        prompt, answer = _parts(alpaca.example(row))
        assert answer == row.fields["answer"]
        assert row.fields["question"] in prompt


def test_columns_may_be_exchanged(make: Make) -> None:
    (row,) = _rows({"prompt": "b", "completion": "a"})
    columns = {"prompt": "completion", "completion": "prompt"}
    assert recognise([row], columns) == "prompt_completion"
    assert _parts(make("prompt_completion", columns=columns).example(row)) == ["a", "b"]
    (talk,) = _rows({"dialogue": TALK, "messages": "not these"})
    assert make("chat", columns={"messages": "dialogue"}).example(talk).trained


def test_special_tokens_of_rows_are_told_from_those_of_templates(make: Make) -> None:
    (row, talk) = _rows(
        {**GOOD, "input": "what is <|im_end|>?"}, {"messages": [{**TALK[0], "content": "</s>"}, TALK[1]]}
    )
    prompts = {"prompt_input": "<|im_start|>{instruction}{input}<|im_end|>", "prompt_no_input": "{instruction}"}
    example = make("alpaca", prompts=prompts).example(row)
    assert example.special_tokens == ((len("<|im_start|>Add.what is "), len("<|im_start|>Add.what is <|im_end|>")),)
    example = make("chat").example(talk)
    assert [example.text[start:end] for start, end in example.special_tokens] == ["</s>"]


@pytest.mark.parametrize("name", FORMATS)
def test_formats_can_be_sent_to_a_worker(make: Make, name: str) -> None:
    (row,) = _rows({**GOOD, "prompt": "a", "completion": "b", "messages": TALK, "text": "c"})
    here = make(name)
    assert here.name == name
    assert pickle.loads(pickle.dumps(here)).example(row) == here.example(row)


def test_one_line_says_what_is_read(make: Make) -> None:
    assert [make(name).describe() for name in FORMATS] == [
        "alpaca: instruction, input, output",
        "prompt_completion: prompt, completion",
        "chat: messages, tools; every turn of the assistant is trained",
        "text: text",
    ]
    assert make("alpaca").describe({"instruction", "output"}) == "alpaca: instruction, output"
    assert make("chat").describe({"messages"}) == "chat: messages; every turn of the assistant is trained"
    named = make("chat", columns={"conversations": "dialogue"}, train_on_turns="last").describe()
    assert named == "chat: conversations=dialogue, tools; the last turn of the assistant is trained"


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("alpca", {}, r"format: 'alpca' is not one of alpaca, .*nearest: alpaca"),
        (
            "alpaca",
            {"columns": {"messages": "m"}},
            "messages is no field of alpaca, which has instruction, output, input",
        ),
        ("chat", {"train_on_turns": "first"}, "train_on_turns: 'first' is not one of all, last"),
        ("chat", {"train_on_turns": "last", "mask_inputs": False}, "Choose one"),
        ("chat", {"chat_template": "none.jinja"}, "no such file"),
        ("alpaca", {"prompts": {}}, "prompt_input is missing"),
    ],
)
def test_bad_options_are_refused(make: Make, name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make(name, **options)


# Rows that are wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({"instruction": "", "output": 7}, ["instruction is empty, found ''.", "output must be text, found int 7."]),
        ({**GOOD, "input": ["x"]}, ["input must be text, found list ['x']."]),
        ({"text": "hello"}, ["instruction is missing; the row has 'text'.", "output is missing; the row has 'text'."]),
        ({**GOOD, "output": None}, ["output is empty, found null."]),
        ({**GOOD, "output": " \n"}, ["output is empty, found ' \\n'."]),
        (
            {**GOOD, "output": "\ud83d"},
            ["output holds half a surrogate pair, which is no character: '\\ud83d'."],
        ),
        ({}, ["instruction is missing; the row has no fields.", "output is missing; the row has no fields."]),
    ],
)
def test_all_that_is_wrong_with_a_row_is_named_at_once(make: Make, fields: Any, problems: list[str]) -> None:
    (row,) = _rows(fields)
    with pytest.raises(RowError) as error:
        make("alpaca").example(row)
    assert str(error.value).split("\n") == [f"a.jsonl, row 1: {problem}" for problem in problems]


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("prompt_completion", {"prompt": "a", "completion": ""}, "completion is empty"),
        ("alpaca", {"instruction": "a", "output": None}, "output is empty, found null"),  # in a table
        ("prompt_completion", {"prompt": None, "completion": "b"}, "prompt must be text, found null"),
        ("text", {"text": " "}, "text is empty"),
        ("text", {"body": "a"}, "text is missing; the row has 'body'"),
        ("chat", {"text": "a"}, "messages or conversations is missing; the row has 'text'"),
        ("chat", {"messages": None}, "messages or conversations is null"),
        ("chat", {"messages": TALK, "conversations": SHAREGPT}, "messages and conversations are both there"),
        ("chat", {"messages": TALK[:1]}, "messages have no turn of the assistant"),
    ],
)
def test_a_wrong_row_is_named_with_its_field(make: Make, name: str, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RowError, match=re.escape(f"a.jsonl, row 1: {says}")):
        make(name).example(*_rows(fields))


def test_a_row_error_survives_the_way_home(make: Make) -> None:
    with pytest.raises(RowError) as error:
        make("alpaca").example(*_rows({"output": 7}))
    there = pickle.loads(pickle.dumps(error.value))
    assert (str(there), there.where, there.field) == (str(error.value), "a.jsonl, row 1", "instruction")
    assert there.what == "is missing; the row has 'output'."


def test_a_huge_value_makes_no_huge_error(make: Make) -> None:
    with pytest.raises(RowError) as error:
        make("text").example(*_rows({"text": ["x" * 10**7] * 3}))
    assert len(str(error.value)) < 200


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="a\x00\ud800</s>{}", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["role", "content"]), inner, max_size=2)
    ),
    max_leaves=4,
)
_MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "x"]) | _VALUES,
        "content": _VALUES,
        "from": st.sampled_from(["human", "gpt"]) | _VALUES,
        "value": _VALUES,
        "tool_calls": _VALUES,
    },
)
_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        name: _VALUES | (st.lists(_MESSAGE, max_size=3) if name in ("messages", "conversations") else st.nothing())
        for name in dict.fromkeys(name for fields in FORMATS.values() for name in fields.names)
    },
)


@given(fields=_FIELDS, name=st.sampled_from(list(FORMATS)))
@settings(deadline=None, max_examples=500)
def test_any_row_is_text_or_an_error_with_its_row(tiny_tokenizer: Any, fields: dict[str, Any], name: str) -> None:
    row = Row("a.jsonl", 5, fields)
    try:
        example = make_format(name, tokenizer=tiny_tokenizer).example(row)
    except RowError as error:
        assert str(error).startswith("a.jsonl, row 5: ")  # noqa: PT017 (any row may be right)
        return
    example.text.encode()
    assert example.trained
    assert all(0 <= start < end <= len(example.text) for start, end in example.trained)
    if name == "text":
        assert example.text == json.loads(json.dumps(fields["text"]))
