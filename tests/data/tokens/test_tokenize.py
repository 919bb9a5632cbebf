"""The ids are those of the whole text, and exactly the answer and its end are trained."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lodos.data.examples import TextExample, TokenizedExample
from lodos.data.reading.sources import read_rows
from lodos.data.text.formats import make_format
from lodos.data.tokens.tokenize import (
    NOT_AS_TEXT,
    NOTHING_TRAINED,
    TOO_LONG,
    Dropped,
    ExampleTokenizer,
    padding_token_id,
    tokenize_examples,
)
from lodos.errors import UserError
from lodos.prompting.prompts import ALPACA_PROMPTS
from lodos.prompting.special_tokens import SpecialTokens


def _row(prompt: str, answer: str, number: int = 1) -> TextExample:
    text = prompt + answer
    return TextExample("made.json", number, text, ((len(prompt), len(text)),))


def _one(example: TextExample, tokenizer: Any, **options: Any) -> TokenizedExample:
    (found,) = tokenize_examples([example], tokenizer, **{"max_length": 1000, **options})
    assert isinstance(found, TokenizedExample)
    return found


def _dropped(example: TextExample, tokenizer: Any, **options: Any) -> Dropped:
    (found,) = tokenize_examples([example], tokenizer, **{"max_length": 1000, **options})
    assert isinstance(found, Dropped)
    return found


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
    rows = read_rows(shared_data / "alpaca_en_999.json")
    alpaca = make_format("alpaca", tokenizer=tokenizer)
    examples = tokenize_examples([alpaca.example(row) for row in rows], tokenizer, max_length=10**6)

    def read(ids: np.ndarray) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    assert len(examples) == 999
    for row, example in zip(rows, examples, strict=True):
        assert isinstance(example, TokenizedExample)
        assert (example.file, example.number) == (row.file, row.number)
        prompt = ALPACA_PROMPTS.render(row.fields["instruction"], row.fields["input"])
        whole = tokenizer(prompt + row.fields["output"]).input_ids
        assert example.ids.tolist() == [*whole, tokenizer.eos_token_id]
        # What is trained is the answer, then the end, in one piece.
        first = int(example.trained.argmax())
        assert example.trained[first:].all()
        assert read(example.ids[:-1]) == prompt + row.fields["output"]
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
    whole = tokenizer(row.text, return_offsets_mapping=True)
    assert whole["offset_mapping"][1] == (1, 2)  # ":  " seems to end at the colon
    assert _shown(_one(row, tokenizer), tokenizer) == [
        ("a", False), (":ĠĠ", True), ("b", True), ("<end>", True)
    ]  # fmt: skip
    after = tokenizer(row.text, return_offsets_mapping=True)
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


@pytest.mark.parametrize("which", ["llama2_tokenizer", "tiny_tokenizer"])
def test_without_mask_a_row_of_l_tokens_has_l_minus_1_targets(request: pytest.FixtureRequest, which: str) -> None:
    tokenizer = request.getfixturevalue(which)
    example = _one(TextExample("made.json", 1, "Say: hello", ((0, 10),)), tokenizer)
    assert example.ids.tolist() == [*tokenizer("Say: hello").input_ids, tokenizer.eos_token_id]
    assert not example.trained[0]
    assert example.trained.sum() == len(example.ids) - 1


def test_spans_inside_a_text_are_trained_and_no_more(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(merged="c:", merges=1, bos_token="<s>", eos_token="<end>")
    example = TextExample("made.json", 1, "a:bc:de:f", ((2, 4), (8, 9)), has_special_tokens=True)
    # "c:" holds a trained character. Nothing is added where a template has written the special tokens.
    assert _shown(_one(example, tokenizer), tokenizer) == [
        ("a", False), (":", False), ("b", True), ("c:", True), ("d", False), ("e", False), (":", False), ("f", True)
    ]  # fmt: skip


def test_offsets_decide_like_the_slow_way(llama2_tokenizer: Any) -> None:
    rng = np.random.default_rng(0)
    tokenize = ExampleTokenizer(llama2_tokenizer, max_length=1000)
    text = "Zwölf Boxkämpfer 🥊 jagen:\n\n  Viktor,  quer 日本 <s> über\tden Sylter Deich."
    for has_special_tokens in (False, True):
        for _ in range(200):
            cuts = np.sort(rng.choice(len(text) + 1, 4, replace=False)).tolist()
            spans = ((cuts[0], cuts[1]), (cuts[2], cuts[3]))
            (found,) = tokenize([TextExample("made.json", 1, text, spans, has_special_tokens)])
            assert isinstance(found, TokenizedExample)
            slow = llama2_tokenizer(text, add_special_tokens=not has_special_tokens, return_offsets_mapping=True)
            assert found.ids[: len(slow["input_ids"])].tolist() == slow["input_ids"]
            expected = [any(end > a and begin < b for a, b in spans) for begin, end in slow["offset_mapping"]]
            expected = [False, *expected[1:], *([] if has_special_tokens else [True])]
            assert found.trained.tolist() == expected


def test_bos_and_eos_that_a_text_has_already_stay_single(llama2_tokenizer: Any, make_tokenizer: Any) -> None:
    from tokenizers import processors

    text = TextExample("made.json", 1, "<s>hello</s>", ((0, 12),))
    assert _shown(_one(text, llama2_tokenizer), llama2_tokenizer) == [("<s>", False), ("▁hello", True), ("</s>", True)]
    both = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer = make_tokenizer(both, bos_token="<s>", eos_token="</s>")
    text = TextExample("made.json", 1, "<s>a</s>", ((0, 8),))
    assert _shown(_one(text, tokenizer), tokenizer) == [("<s>", False), ("a", True), ("</s>", True)]


def test_long_rows_are_dropped_in_their_place_with_the_reason(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(eos_token="<end>")
    rows = [_row("a", "b" * n, number=n) for n in range(1, 31)]  # n + 2 tokens
    found = tokenize_examples(rows, tokenizer, max_length=12)
    assert [example.number for example in found] == list(range(1, 31))
    assert [len(e.ids) for e in found if isinstance(e, TokenizedExample)] == list(
        range(3, 13)
    )  # max_length itself fits
    assert found[10] == Dropped("made.json", 11, TOO_LONG, "13 tokens, more than max_tune_length=12")
    with pytest.raises(
        UserError,
        match=re.escape("20 of 30 rows have more than max_tune_length=12 tokens: made.json, row 11;") + ".*10 more",
    ):
        tokenize_examples(rows, tokenizer, max_length=12, overflow="error")


def test_a_truncated_row_keeps_trained_tokens_or_is_dropped(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(eos_token="<end>")
    row = _row("abcd", "efgh")
    cut = _one(row, tokenizer, max_length=6, overflow="truncate")
    assert _shown(cut, tokenizer) == [
        ("a", False), ("b", False), ("c", False), ("d", False), ("e", True), ("f", True)
    ]  # fmt: skip
    assert cut.cut == 3  # "gh" and the end: a cut answer does not teach to stop there
    assert _one(row, tokenizer, max_length=5, overflow="truncate").trained.sum() == 1
    gone = _dropped(row, tokenizer, max_length=4, overflow="truncate")
    assert (gone.reason, gone.detail) == (NOTHING_TRAINED, "the first 4 of its 9 tokens are all context")
    assert _one(row, tokenizer, max_length=9, overflow="truncate").cut == 0


def test_a_row_without_a_trained_token_is_dropped(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(eos_token="<end>")
    gone = _dropped(TextExample("made.json", 7, "<end>", ((0, 5),)), tokenizer)
    assert (gone.where, gone.reason, gone.detail) == ("made.json, row 7", NOTHING_TRAINED, "all 1 tokens are context")
    assert _dropped(TextExample("made.json", 7, "", ((0, 0),), True), tokenizer).reason == NOTHING_TRAINED


def test_rows_of_every_kind_keep_their_order(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(eos_token="<end>")
    special = SpecialTokens(tokenizer)
    rows = []
    for n in range(2500):
        text = f"{n}<end>b" if n % 5 == 0 else f"{n}b"
        start = 0 if n % 3 == 0 else len(text) - 1
        rows.append(TextExample("made.json", n, text, ((start, len(text)),), n % 2 == 0, special.spans(text)))
    found = ExampleTokenizer(tokenizer, max_length=100, special_tokens_as_text=True)(rows)
    assert [example.number for example in found] == list(range(2500))
    for row, example in zip(rows, found, strict=True):
        assert isinstance(example, TokenizedExample)
        assert tokenizer.decode(example.ids, skip_special_tokens=True) == row.text
        assert example.ids.tolist().count(tokenizer.eos_token_id) == (not row.has_special_tokens)


def test_it_can_be_sent_to_a_worker(llama2_tokenizer: Any) -> None:
    here = ExampleTokenizer(llama2_tokenizer, max_length=100, special_tokens_as_text=True)
    rows = [_row("a:", "b"), TextExample("made.json", 2, "a</s>", ((0, 5),), special_tokens=((1, 5),))]
    there = pickle.loads(pickle.dumps(here))
    assert [str(example) for example in there(rows)] == [str(example) for example in here(rows)]


def test_special_tokens_of_a_row_are_read_as_text_and_those_of_a_template_are_not(
    make_tokenizer: Callable[..., Any],
) -> None:
    tokenizer = make_tokenizer(merged=" <|end|>", merges=0, bos_token="<s>", eos_token="<|end|>")
    text = "<s>user: x <|end|> y<|end|>"
    example = TextExample("made.json", 1, text, ((11, 27),), True, special_tokens=((11, 18),))
    found = _shown(_one(example, tokenizer, special_tokens_as_text=True), tokenizer)
    assert [token for token, _ in found] == ["<s>", *"user:Ġx", *"Ġ<|end|>Ġy", "<|end|>"]
    assert [trained for _, trained in found] == [False] * 9 + [True] * 10
    as_control = _shown(_one(example, tokenizer), tokenizer)
    assert [token for token, _ in as_control] == ["<s>", *"user:Ġx", "Ġ", "<|end|>", *"Ġy", "<|end|>"]


def test_as_text_changes_nothing_but_those_tokens(llama2_tokenizer: Any) -> None:
    # Meant tokens cut the text where they always do, so that SentencePiece puts its spaces where it always does.
    text = "<s>Hi there</s>and <unk> so"
    example = TextExample("made.json", 1, text, ((0, 27),), True, special_tokens=((19, 24),))
    found = _one(example, llama2_tokenizer, special_tokens_as_text=True)
    assert llama2_tokenizer.convert_ids_to_tokens(found.ids.tolist()) == [
        "<s>", "▁Hi", "▁there", "</s>", "▁and", "▁<", "unk", ">", "▁so"
    ]  # fmt: skip


def test_what_cannot_be_read_as_text_is_dropped(make_tokenizer: Callable[..., Any]) -> None:
    # Merges that make the special token of its characters again.
    tokenizer = make_tokenizer(eos_token="<end>")
    state = tokenizer.backend_tokenizer.to_str()
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    changed = json.loads(state)
    vocab = changed["model"]["vocab"]
    for piece in ("<e", "<en", "<end"):
        vocab[piece] = len(vocab)
    changed["model"]["merges"] = [["<", "e"], ["<e", "n"], ["<en", "d"], ["<end", ">"]]
    merging = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(changed)), eos_token="<end>")
    example = TextExample("made.json", 1, "a<end>b", ((1, 7),), special_tokens=((1, 6),))
    gone = _dropped(example, merging, special_tokens_as_text=True)
    assert (gone.reason, "makes <end> of" in gone.detail) == (NOT_AS_TEXT, True)
    private = TextExample("made.json", 1, "\U000f0000<end>", ((1, 6),), special_tokens=((1, 6),))
    assert _dropped(private, tokenizer, special_tokens_as_text=True).reason == NOT_AS_TEXT


def test_tokenizers_that_cannot_do_it_are_refused(make_tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="no EOS token"):
        _one(_row("a", "b"), make_tokenizer())

    class SlowTokenizer:
        is_fast = False

    with pytest.raises(UserError, match="SlowTokenizer is a slow tokenizer"):
        _one(_row("a", "b"), SlowTokenizer())
    with pytest.raises(UserError, match="overflow: 'cut' is not one of"):
        _one(_row("a", "b"), make_tokenizer(eos_token="<end>"), overflow="cut")
    with pytest.raises(UserError, match="max_tune_length: 1 must be at least 2"):
        _one(_row("a", "b"), make_tokenizer(eos_token="<end>"), max_length=1)


def test_a_tokenizer_that_adds_to_its_backend_is_refused(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(eos_token="<end>")

    class Shouting(type(tokenizer)):
        def __call__(self, text: Any, **options: Any) -> Any:
            return super().__call__(text + "!", **options)

    shouting = Shouting(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<end>")
    with pytest.raises(UserError, match=r"Shouting gives other tokens than its tokenizer\.json"):
        _one(_row("a", "b"), shouting)


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
