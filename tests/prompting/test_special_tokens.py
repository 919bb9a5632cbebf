"""Special tokens in a text are found as the tokenizer finds them."""

from typing import Any

import pytest

from lodos.prompting.special_tokens import SpecialTokens


@pytest.fixture
def tokenizer(make_tokenizer: Any) -> Any:
    made = make_tokenizer(bos_token="<s>", eos_token="</s>")
    made.add_tokens(["<s>s", "<|end|>"], special_tokens=True)
    made.add_tokens(["<think>"])
    return made


def test_each_is_found_in_order_and_content_is_not(tokenizer: Any) -> None:
    special = SpecialTokens(tokenizer)
    text = "a </s> <think> <|end|></s>"
    assert [text[start:end] for start, end in special.spans(text)] == ["</s>", "<|end|>", "</s>"]
    assert special.spans("a < s>") == ()


def test_a_tokenizer_without_special_tokens_finds_none(make_tokenizer: Any) -> None:
    special = SpecialTokens(make_tokenizer())
    assert special.spans("any <s>") == ()
    assert not special.end("any <s>")


@pytest.mark.parametrize("text", ["<s>s<s>", "<s><s>ss", "x<|end|></s", "", "<|end|>"])
def test_places_are_those_of_the_tokenizer(tokenizer: Any, text: str) -> None:
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    special = {tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>", "<s>s", "<|end|>")}
    expected = tuple(span for token, span in zip(encoding.ids, encoding.offsets, strict=True) if token in special)
    assert SpecialTokens(tokenizer).spans(text) == expected


def test_what_a_template_wrote_whole_is_not_the_rows(tokenizer: Any) -> None:
    special = SpecialTokens(tokenizer)
    pieces = [("<s>user ", False), ("what is </s>?", True), ("</s>", False), ("<|e", True), ("nd|>", False)]
    text = "".join(piece for piece, _ in pieces)
    assert [text[start:end] for start, end in special.in_row_text(pieces)] == ["</s>", "<|end|>"]
    assert special.in_row_text([("<s>", False), ("a", True)]) == ()
