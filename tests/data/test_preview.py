"""Shown tokens: together they are the text, each with its own mark, and none can harm a terminal."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lodos.data.examples import TokenizedExample
from lodos.data.preview import LINE_END, PART, ShownRow, ShownToken, shown_row, token_texts, visible


def row_of(tokenizer: Any, text: str) -> ShownRow:
    ids = np.array(tokenizer(text)["input_ids"], np.int32)
    return shown_row(TokenizedExample(ids, np.arange(len(ids)) > 2, "a.json", 7), tokenizer)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda text: "\ufffd" not in text))
def test_the_texts_of_the_tokens_are_the_text(tiny_tokenizer: Any, text: str) -> None:
    texts = token_texts(tiny_tokenizer(text, add_special_tokens=False)["input_ids"], tiny_tokenizer)
    assert "".join(part for part in texts if part != PART or PART in text) == text


def test_spaces_of_sentencepiece_are_there(llama2_tokenizer: Any) -> None:
    ids = llama2_tokenizer("The cat 🙂 sat")["input_ids"]
    texts = token_texts(ids, llama2_tokenizer)
    assert texts[:3] == ["<s>", " The", " cat"]
    assert texts[-1] == " sat"
    assert [text for text in texts if text != PART] == ["<s>", " The", " cat", " ", "🙂", " sat"]


def test_a_token_says_what_it_is(tiny_tokenizer: Any) -> None:
    row = row_of(tiny_tokenizer, "ab\n\x1b</s>")
    assert [(token.text, token.kind, token.ends_line) for token in row.tokens] == [
        ("a", "context", False),
        ("b", "context", False),
        (LINE_END, "context", True),
        ("\\x1b", "trained", False),
        ("</s>", "trained special", False),
    ]
    assert (row.where, row.trained_count) == ("a.json, row 7", 2)
    assert row.tokens[-1].id == tiny_tokenizer.eos_token_id


@pytest.mark.parametrize("char", ["\x00", "\x1b", "\x9b", "\r", "\t", "\u202e", "\u2028"])
def test_nothing_that_steers_a_terminal_is_left(char: str) -> None:
    assert visible(f"a{char}b").isprintable()
    assert visible(f"a{char}b") != f"a{char}b"


@pytest.mark.parametrize(("most", "head", "passed_over", "tail"), [(10, 10, 0, 0), (9, 5, 1, 4), (4, 2, 6, 2)])
def test_of_a_long_row_both_ends_are_shown(most: int, head: int, passed_over: int, tail: int) -> None:
    tokens = tuple(ShownToken(i, str(i), False, False, False) for i in range(10))
    first, left, last = ShownRow("a", tokens).ends(most)
    assert (len(first), left, len(last)) == (head, passed_over, tail)
    assert tuple(first) == tokens[:head]
    assert tuple(last) == tokens[10 - tail :]
