"""Alpaca rows with earlier turns and a system text: each trains what it says."""

from typing import Any

import pytest

from lodos.data.reading.rows import EmptyAnswerError, Row, RowError
from lodos.data.text.formats import make_format
from lodos.data.tokens.tokenize import TokenizedExample, tokenize_examples

PROMPTS = {"prompt_input": "<{instruction}|{input}>", "prompt_no_input": "<{instruction}>"}
ROW = {"instruction": "And 2?", "input": "plus", "output": "3", "history": [["Add 1.", "1"], ["Again.", "2"]]}


def _example(tokenizer: Any, fields: dict[str, Any], **options: Any) -> Any:
    return make_format("alpaca", tokenizer=tokenizer, prompts=PROMPTS, **options).example(Row("a.json", 1, fields))


def _trained(example: Any) -> list[str]:
    return [example.text[start:end] for start, end in example.trained]


def test_earlier_turns_have_the_same_prompts_and_are_trained(tiny_tokenizer: Any) -> None:
    example = _example(tiny_tokenizer, ROW)
    assert example.text == "<Add 1.>1</s><Again.>2</s><And 2?|plus>3"
    assert _trained(example) == ["1</s>", "2</s>", "3"]
    assert _trained(_example(tiny_tokenizer, ROW, train_on_turns="last")) == ["3"]
    assert _trained(_example(tiny_tokenizer, ROW, mask_inputs=False)) == [example.text]
    assert example.special_tokens == ()  # the row's own text spells none


def test_no_earlier_turns_are_written_in_several_ways(tiny_tokenizer: Any) -> None:
    for nothing in (None, [], "", " ", "[]", "null"):
        assert _example(tiny_tokenizer, {**ROW, "history": nothing}).text == "<And 2?|plus>3"


def test_a_system_text_stands_before_the_first_prompt(tiny_tokenizer: Any) -> None:
    example = _example(tiny_tokenizer, {**ROW, "system": "Be brief."})
    assert example.text.startswith("Be brief.\n\n<Add 1.>1</s>")
    assert _trained(example) == ["1</s>", "2</s>", "3"]
    for nothing in (None, "", " "):
        assert _example(tiny_tokenizer, {**ROW, "system": nothing}).text.startswith("<Add 1.>")
    named = _example(tiny_tokenizer, {**ROW, "persona": "A pirate."}, columns={"system": "persona"})
    assert named.text.startswith("A pirate.\n\n<")


def test_each_answer_ends_in_a_trained_eos_token(tiny_tokenizer: Any) -> None:
    fields = {**ROW, "history": [["What is </s>?", "a token"]]}
    (tokens,) = tokenize_examples(
        [_example(tiny_tokenizer, fields)], tiny_tokenizer, max_length=200, special_tokens_as_text=True
    )
    assert isinstance(tokens, TokenizedExample)
    eos = tiny_tokenizer.eos_token_id
    assert [bool(trained) for token, trained in zip(tokens.ids, tokens.trained, strict=True) if token == eos] == [
        True,
        True,
    ]  # the one that the question spells is text


@pytest.mark.parametrize("nothing", [None, [], "", "[]"])
def test_no_history_is_none(tiny_tokenizer: Any, nothing: Any) -> None:
    assert _example(tiny_tokenizer, {**ROW, "history": nothing}).text == "<And 2?|plus>3"


def test_history_may_be_json_text(tiny_tokenizer: Any) -> None:
    assert _example(tiny_tokenizer, {**ROW, "history": '[["a", "b"]]'}).text == "<a>b</s><And 2?|plus>3"


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ("a, b", r"history must be a list of \[instruction, answer\], found 'a, b'"),
        ([["a"]], r"history\[0\] must be \[instruction, answer\], two texts, found list \['a'\]"),
        ([["a", "b"], ["a", 3]], r"history\[1\] must be"),
        ([{"instruction": "a", "output": "b"}], r"history\[0\] must be .*found dict"),
        ([["", "b"]], r"history\[0\]\[0\] is empty"),
        ([["a", "\ud83d"]], r"history\[0\] holds half a surrogate pair"),
    ],
)
def test_a_history_that_is_none_is_refused(tiny_tokenizer: Any, history: Any, says: str) -> None:
    with pytest.raises(RowError, match=says) as error:
        _example(tiny_tokenizer, {**ROW, "history": history})
    assert not isinstance(error.value, EmptyAnswerError)


def test_an_empty_answer_of_an_earlier_turn_may_be_context(tiny_tokenizer: Any) -> None:
    fields = {**ROW, "history": [["a", " "]]}
    with pytest.raises(EmptyAnswerError, match=r"history\[0\]\[1\] is empty"):
        _example(tiny_tokenizer, fields)
    assert _trained(_example(tiny_tokenizer, fields, train_on_turns="last")) == ["3"]
