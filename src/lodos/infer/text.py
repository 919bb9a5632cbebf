"""Text in, text out: a tokenizer on both sides of `generate`.

A token is bytes, and a character may take several tokens; a stream prints a character when it is whole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lodos.errors import UserError
from lodos.infer.generate import generate
from lodos.models.decoder import LmHeadModel

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
    chat: bool = False,
    system: str | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> list[str]:
    """The answer to each prompt, in the order of the prompts, without special tokens.

    Args:
        eos_token_ids: by default the tokenizer's own; `end_token_ids` adds a model folder's.
        chat: whether a prompt is a user's turn, put into the tokenizer's chat template.
        system: the system's turn before it.

    The rest is as in `generate`.

    Raises:
        UserError: as `generate` and `encode_prompt` do.
    """
    ids = [encode_prompt(tokenizer, prompt, chat=chat, system=system) for prompt in prompts]
    answers = generate(
        model,
        ids,
        max_new_tokens=max_new_tokens,
        eos_token_ids=end_token_ids(tokenizer) if eos_token_ids is None else eos_token_ids,
        pad_token_id=filler_token_id(tokenizer),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        batch_size=batch_size,
    )
    return [_decode(tokenizer, answer) for answer in answers]


def encode_prompt(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, *, chat: bool = False, system: str | None = None
) -> list[int]:
    """The ids of a prompt: as it is, with what the tokenizer puts in front (BOS), or as a user's turn.

    Raises:
        UserError: for `chat` without a chat template, `system` without `chat`, or a conversation that the
            template refuses.
    """
    if not chat:
        if system is not None:
            raise UserError("system: only a chat has a system's turn. Set chat to true or leave system out.")
        ids = list(tokenizer(prompt)["input_ids"])
        # Some tokenizers close every text with EOS, after which a model would begin another.
        closed = ids[-1:] == [tokenizer.eos_token_id] and not prompt.endswith(str(tokenizer.eos_token))
        return ids[:-1] if closed else ids
    if not tokenizer.chat_template:
        raise UserError("chat: the tokenizer has no chat template. Set chat to false to give the prompt as it is.")
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})

    from jinja2 import TemplateError

    try:
        text = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except TemplateError as error:
        raise UserError(f"chat: the tokenizer's chat template refuses this conversation: {error}.") from None
    # The template writes BOS itself where the model wants one.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def end_token_ids(
    tokenizer: "PreTrainedTokenizerBase", generation_config: Mapping[str, Any] | None = None
) -> list[int]:
    """The ids that end an answer: the tokenizer's EOS and those of a generation_config.json."""
    declared = (generation_config or {}).get("eos_token_id")
    ids = declared if isinstance(declared, list) else [declared]
    return sorted({token for token in [*ids, tokenizer.eos_token_id] if token is not None})


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
        before, text = _decode(tokenizer, tokens[start:shown]), _decode(tokenizer, tokens[start:])
        if len(text) > len(before) and not text.endswith(_REPLACEMENT):
            yield text[len(before) :]
            start, shown = shown, len(tokens)
    # Bytes that never became a character are shown as such at the end.
    before, text = _decode(tokenizer, tokens[start:shown]), _decode(tokenizer, tokens[start:])
    if len(text) > len(before):
        yield text[len(before) :]


def _decode(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
