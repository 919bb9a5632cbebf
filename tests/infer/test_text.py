"""Text is whole characters on the way out and the right tokens on the way in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.infer.generate import generate
from lodos.infer.text import encode_prompt, end_token_ids, generate_texts, stream_text

TEXT = "naïve — 日本語 🌬️👩‍🚀 task.\n"


def test_a_stream_prints_only_whole_characters(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer(TEXT)["input_ids"]
    assert len(ids) > len(TEXT)  # most characters here take several tokens
    pieces = list(stream_text(tiny_tokenizer, ids))
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 10


def test_a_piece_is_there_as_soon_as_its_token_is(tiny_tokenizer: Any) -> None:
    taken = 0

    def ids() -> Any:
        nonlocal taken
        for token in tiny_tokenizer("instruction é task")["input_ids"]:
            taken += 1
            yield token

    shown = ""
    for piece in stream_text(tiny_tokenizer, ids()):
        shown += piece
        assert shown == tiny_tokenizer.decode(tiny_tokenizer("instruction é task")["input_ids"][:taken])


def test_broken_bytes_end_the_stream_without_losing_what_was_before(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer("ok 日")["input_ids"][:-1]
    assert "".join(stream_text(tiny_tokenizer, ids)) == "ok \ufffd"
    assert list(stream_text(tiny_tokenizer, [])) == []


def test_special_tokens_are_not_shown_and_spaces_are_kept() -> None:
    """A tokenizer of SentencePiece's kind drops the space of the first token of a decoded piece."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocab = {"<s>": 0, "</s>": 1, "<unk>": 2, "▁The": 3, "▁wind": 4, "▁blows": 5, ".": 6}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    assert list(stream_text(fast, [3, 0, 4, 5, 6])) == ["The", " wind", " blows", "."]


def test_a_chat_is_the_template_and_nothing_more(tiny_tokenizer: Any) -> None:
    chat = encode_prompt(tiny_tokenizer, "Hi", chat=True, system="Be brief.")
    assert tiny_tokenizer.decode(chat) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tiny_tokenizer.decode(encode_prompt(tiny_tokenizer, "Hi")) == "Hi"


def test_bos_stands_once_and_eos_never(tiny_tokenizer: Any) -> None:
    import copy

    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    assert tokenizer.decode(encode_prompt(tokenizer, "Hi")) == "<s>Hi"
    assert tokenizer.decode(encode_prompt(tokenizer, "Hi", chat=True)).count("<s>") == 1
    # One that the user wrote stays.
    assert tokenizer.decode(encode_prompt(tokenizer, "Hi</s>")).count("</s>") == 2


def test_what_the_template_cannot_do_is_the_users_error(tiny_tokenizer: Any) -> None:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(UserError, match="refuses this conversation: no system turns"):
        encode_prompt(tokenizer, "Hi", chat=True)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        encode_prompt(tokenizer, "Hi", chat=True)
    with pytest.raises(UserError, match="system: only a chat"):
        encode_prompt(tiny_tokenizer, "Hi", system="Be brief.")


def test_an_answer_ends_at_the_tokenizers_eos_and_at_the_models(tiny_tokenizer: Any) -> None:
    assert end_token_ids(tiny_tokenizer) == [1]
    assert end_token_ids(tiny_tokenizer, {"eos_token_id": 3}) == [1, 3]
    assert end_token_ids(tiny_tokenizer, {"eos_token_id": [3, 1, 9]}) == [1, 3, 9]
    assert end_token_ids(tiny_tokenizer, {"eos_token_id": None}) == [1]


def test_texts_come_back_in_the_order_of_the_prompts(
    make_model: Callable[..., tuple[Path, Any]], tiny_tokenizer: Any
) -> None:
    model = HFCheckpointConverter.from_hf(str(make_model()[0])).load_pretrained()
    prompts = ["a task", "an instruction that describes a task", "x", "### Input:"]
    texts = generate_texts(model, tiny_tokenizer, prompts, max_new_tokens=8, batch_size=2)
    for prompt, text in zip(prompts, texts, strict=True):
        (ids,) = generate(model, [encode_prompt(tiny_tokenizer, prompt)], max_new_tokens=8, eos_token_ids=[1])
        assert text == tiny_tokenizer.decode(ids, skip_special_tokens=True)
    assert len(set(texts)) == len(texts)


def test_smollm2_knows_the_capital_of_france(smollm2: Path) -> None:
    converter = HFCheckpointConverter.from_hf(str(smollm2))
    model = converter.load_pretrained(dtype="float32")
    question = "What is the capital of France?"
    texts = generate_texts(model, converter.tokenizer, [question, "Say hello."], max_new_tokens=24, chat=True)
    assert texts[0].startswith("The capital of France is Paris.")
