"""Text in, text out: a tokenizer on both sides of `generate`.

A token is bytes, and a character may take several tokens; a stream prints a character when it is whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lodos.infer.generate import generate
from lodos.infer.sampling import Sampling
from lodos.models.decoder import LmHeadModel
from lodos.prompting.description import Prompting
from lodos.prompting.encode import PLAIN, encode_prompt, end_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a decoder writes for bytes that are not a whole character.
_REPLACEMENT = "\ufffd"


def generate_texts(
    model: LmHeadModel,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    eos_token_ids: Sequence[int] | None = None,
    prompting: Prompting = PLAIN,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    seed: int = 0,
    batch_size: int = 64,
) -> list[str]:
    """The answer to each prompt, in the order of the prompts, without special tokens.

    Args:
        eos_token_ids: by default the tokenizer's own and the trained ones; `end_token_ids` adds a model folder's.
        prompting: how the model is asked; by default with each prompt as it is.

    The rest is as in `generate`.

    Raises:
        UserError: as `generate` and `encode_prompt` do.
    """
    ids = [encode_prompt(tokenizer, prompt, prompting) for prompt in prompts]
    answers = generate(
        model,
        ids,
        max_new_tokens=max_new_tokens,
        eos_token_ids=end_token_ids(tokenizer, prompting) if eos_token_ids is None else eos_token_ids,
        pad_token_id=filler_token_id(tokenizer),
        sampling=sampling,
        seed=seed,
        batch_size=batch_size,
    )
    return [decode(tokenizer, answer) for answer in answers]


def filler_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """An id to fill rows with: PAD, else EOS, else 0. Nothing reads it."""
    ids: list[Any] = [tokenizer.pad_token_id, tokenizer.eos_token_id, 0]
    return next(token for token in ids if token is not None)


def stream_text(tokenizer: "PreTrainedTokenizerBase", ids: Iterable[int]) -> Iterator[str]:
    """The text of `ids` piece by piece, each made of whole characters. Together they are the text."""
    # Some tokenizers drop the space of the first token, so new ones are decoded after the piece before them.
    tokens: list[int] = []
    start = shown = 0
    for token in ids:
        tokens.append(token)
        before, text = decode(tokenizer, tokens[start:shown]), decode(tokenizer, tokens[start:])
        if len(text) > len(before) and not text.endswith(_REPLACEMENT):
            yield text[len(before) :]
            start, shown = shown, len(tokens)
    # Bytes that never became a character are shown as such at the end.
    before, text = decode(tokenizer, tokens[start:shown]), decode(tokenizer, tokens[start:])
    if len(text) > len(before):
        yield text[len(before) :]


def decode(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """The text of an answer, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
