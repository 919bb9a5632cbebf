"""The ids are those of the whole text, and exactly the answer and its end are trained."""

import dataclasses
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lodos.data.examples import TokenizedExample
from lodos.data.prompts import ALPACA_PROMPTS, Prompts
from lodos.data.sources import AlpacaRow, alpaca_rows, read_rows
from lodos.data.tokenize import padding_token_id, tokenize_alpaca
from lodos.errors import UserError

BARE = Prompts("{instruction}{input}", "{instruction}")


def _row(instruction: str, output: str, number: int = 1) -> AlpacaRow:
    return AlpacaRow("made.json", number, instruction, "", output)


def _one(row: AlpacaRow, tokenizer: Any, prompts: Prompts = BARE, **options: Any) -> TokenizedExample:
    examples, _ = tokenize_alpaca([row], tokenizer, prompts, **{"max_length": 1000, **options})
    return examples[0]


def _shown(example: TokenizedExample, tokenizer: Any) -> list[tuple[str, bool]]:
    return list(zip(tokenizer.convert_ids_to_tokens(example.ids.tolist()), example.trained.tolist(), strict=True))


def test_by_hand_on_llama_2(llama2_tokenizer: Any) -> None:
    row = _row("### Response:", "The cat")
    assert _shown(_one(row, llama2_tokenizer), llama2_tokenizer) == [
        ("<s>", False),
        ("▁###", False),
        ("▁Response", False),
        (":", False),
        ("The", True),
        ("▁cat", True),
        ("</s>", True),
    ]


def test_by_hand_on_bytes(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(eos_token="<end>")
    example = _one(_row("a:", "bé"), tokenizer)
    # é is two bytes, thus two tokens, both of the answer.
    assert _shown(example, tokenizer) == [
        ("a", False), (":", False), ("b", True), ("Ã", True), ("©", True), ("<end>", True)
    ]  # fmt: skip
    assert (example.ids.dtype, example.trained.dtype) == (np.int32, np.bool_)


@pytest.mark.parametrize("which", ["llama2_tokenizer", "tiny_tokenizer"])
def test_ids_are_those_of_the_whole_text_on_real_rows(
    shared_data: Path, request: pytest.FixtureRequest, which: str
) -> None:
    tokenizer = request.getfixturevalue(which)
    rows = alpaca_rows(read_rows(shared_data / "alpaca_en_999.json"))
    examples, report = tokenize_alpaca(rows, tokenizer, ALPACA_PROMPTS, max_length=10**6)

    def read(ids: np.ndarray) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    assert report.read == report.kept == len(examples) == 999
    for row, example in zip(rows, examples, strict=True):
        assert (example.file, example.number) == (row.file, row.number)
        prompt = ALPACA_PROMPTS.render(row)
        whole = tokenizer(prompt + row.output).input_ids
        assert example.ids.tolist() == [*whole, tokenizer.eos_token_id]
        # What is trained is the answer, then the end, in one piece.
        first = int(example.trained.argmax())
        assert example.trained[first:].all()
        assert read(example.ids[:-1]) == prompt + row.output
        # Told without offsets: what is not trained reads as part of the prompt, one token more leaves it.
        assert len(read(example.ids[:first])) <= len(prompt) < len(read(example.ids[: first + 1]))
        assert example.ids.tolist().count(tokenizer.bos_token_id) == whole.count(tokenizer.bos_token_id)


def test_a_token_across_the_border_is_trained(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(merged=":T", merges=1, eos_token="<end>")
    assert _shown(_one(_row("a:", "The"), tokenizer), tokenizer) == [
        ("a", False), (":T", True), ("h", True), ("e", True), ("<end>", True)
    ]  # fmt: skip


def test_a_border_token_is_trained_though_the_tokenizer_trims_white_space(
    make_tokenizer: Callable[..., Any],
) -> None:
    from tokenizers import processors

    trimming = processors.Sequence([processors.ByteLevel(trim_offsets=True)])
    tokenizer = make_tokenizer(trimming, merged=":  ", merges=2, eos_token="<end>")
    row = _row("a:", "  b")
    whole = tokenizer(row.instruction + row.output, return_offsets_mapping=True)
    assert whole["offset_mapping"][1] == (1, 2)  # ":  " seems to end at the colon
    assert _shown(_one(row, tokenizer), tokenizer) == [
        ("a", False), (":ĠĠ", True), ("b", True), ("<end>", True)
    ]  # fmt: skip
    after = tokenizer(row.instruction + row.output, return_offsets_mapping=True)
    assert after["offset_mapping"] == whole["offset_mapping"]  # the caller's tokenizer is untouched


def test_a_space_before_the_answer_belongs_to_its_first_token(llama2_tokenizer: Any) -> None:
    shown = _shown(_one(_row("Say: ", "hello"), llama2_tokenizer), llama2_tokenizer)
    assert shown[-3:] == [(":", False), ("▁hello", True), ("</s>", True)]


def test_eos_is_trained_though_pad_has_its_id(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(eos_token="<end>", pad_token="<end>")
    example = _one(_row("a", "b"), tokenizer)
    assert example.ids[-1] == tokenizer.eos_token_id == padding_token_id(tokenizer)
    assert example.trained[-1]


def test_special_tokens_of_the_tokenizer_stay_single(make_tokenizer: Callable[..., Any]) -> None:
    from tokenizers import processors

    both = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer = make_tokenizer(both, bos_token="<s>", eos_token="</s>")
    assert _shown(_one(_row("a", "b"), tokenizer), tokenizer) == [
        ("<s>", False), ("a", False), ("b", True), ("</s>", True)
    ]  # fmt: skip


def test_without_mask_a_row_of_l_tokens_has_l_minus_1_targets(llama2_tokenizer: Any) -> None:
    example = _one(_row("Say: ", "hello"), llama2_tokenizer, mask_inputs=False)
    assert not example.trained[0]
    assert example.trained.sum() == len(example.ids) - 1


def test_long_rows_are_left_out_counted_and_named(
    make_tokenizer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = make_tokenizer(eos_token="<end>")
    rows = [_row("a", "b" * n, number=n) for n in range(1, 31)]  # n + 2 tokens
    with caplog.at_level(logging.WARNING):
        examples, report = tokenize_alpaca(rows, tokenizer, BARE, max_length=12)
    assert [len(e.ids) for e in examples] == list(range(3, 13))  # max_length itself fits
    assert report.read == report.kept + len(report.too_long) == 30
    assert [row.number for row in report.too_long] == list(range(11, 31))
    assert (report.longest, report.tokens, report.trained_tokens) == (32, 75, 65)
    for number in (11, 20):
        assert f"made.json, row {number};" in str(report)
    assert "and 10 more" in caplog.text
    assert "10 of 30 rows kept, 75 tokens, 65 of them trained (87%)" in caplog.text
    with pytest.raises(
        UserError, match=re.escape("20 of 30 rows have more than max_length=12 tokens: made.json, row 11;")
    ):
        tokenize_alpaca(rows, tokenizer, BARE, max_length=12, overflow="error")


def test_a_set_without_rows_or_targets_is_refused(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(eos_token="<end>")
    with pytest.raises(UserError, match=r"1 of 1 rows have more than max_length=2 .*longest row has 3"):
        _one(_row("a", "b"), tokenizer, max_length=2)
    with pytest.raises(UserError, match="no rows"):
        tokenize_alpaca([], tokenizer, BARE, max_length=2)
    with pytest.raises(UserError, match=r"No token .* is trained"):
        _one(dataclasses.replace(_row("", ""), instruction="<end>"), tokenizer)


def test_tokenizers_that_cannot_do_it_are_refused(make_tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="no EOS token"):
        _one(_row("a", "b"), make_tokenizer())

    class SlowTokenizer:
        is_fast = False

    with pytest.raises(UserError, match="SlowTokenizer is a slow tokenizer"):
        _one(_row("a", "b"), SlowTokenizer())
    with pytest.raises(UserError, match="overflow: 'cut' is not one of"):
        _one(_row("a", "b"), make_tokenizer(eos_token="<end>"), overflow="cut")


def test_progress_ends_at_all_rows(make_tokenizer: Callable[..., Any]) -> None:
    calls: list[tuple[int, int]] = []
    tokenize_alpaca(
        [_row("a", "b")] * 2500,
        make_tokenizer(eos_token="<end>"),
        BARE,
        max_length=9,
        progress=lambda done, of: calls.append((done, of)),
    )
    assert calls == [(1000, 2500), (2000, 2500), (2500, 2500)]


def test_filler_is_pad_then_unk_then_eos_within_the_vocabulary(make_tokenizer: Callable[..., Any]) -> None:
    every = make_tokenizer(pad_token="<pad>", unk_token="<unk>", eos_token="<end>")
    assert padding_token_id(every) == every.pad_token_id
    assert padding_token_id(make_tokenizer(unk_token="<unk>", eos_token="<end>")) == 0
    assert padding_token_id(make_tokenizer(eos_token="<end>")) == 0
    with pytest.raises(UserError, match="no PAD, UNK or EOS"):
        padding_token_id(make_tokenizer())

    added = make_tokenizer(unk_token="<unk>", eos_token="<end>")
    size = len(added)
    added.add_special_tokens({"pad_token": "<pad>"})
    assert added.pad_token_id == size  # behind the model's embedding
    assert padding_token_id(added, vocab_size=size) == added.unk_token_id


def test_filler_of_llama_2_is_unk_and_the_vocabulary_keeps_its_size(llama2_tokenizer: Any) -> None:
    assert padding_token_id(llama2_tokenizer) == llama2_tokenizer.unk_token_id == 0
    assert len(llama2_tokenizer) == 32_000
