"""Text is whole characters on the way out and the right tokens on the way in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lodos.formats.hf import HFCheckpointConverter
from lodos.infer.generate import generate
from lodos.infer.text import generate_texts, stream_text
from lodos.prompting.encode import CHAT, encode_prompt

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
    texts = generate_texts(model, converter.tokenizer, [question, "Say hello."], max_new_tokens=24, prompting=CHAT)
    assert texts[0].startswith("The capital of France is Paris.")
