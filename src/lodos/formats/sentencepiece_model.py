"""A `tokenizer.model` without a `tokenizer.json`: SentencePiece's own file, read into a tokenizer with offsets.

transformers builds it from the pieces and their scores. Where tokenizer_config.json names LlamaTokenizer, it would take
the pieces in the order of their ids instead, and cut runs of spaces otherwise than SentencePiece does: so the class
that reads the scores is asked for by name, and what it gives is compared with SentencePiece.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from lodos.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME = "tokenizer.model"
_PROBES = ("Hello  world", "def f(x):\n    return  12345.6\t# é ü 日本 🙂", "two behind  ")
"""Without leading spaces, of which `legacy: false` in tokenizer_config.json has one less than SentencePiece."""
_FIRST_BYTE = b"\x0a"
"""Of a SentencePiece model, which is a protocol buffer that begins with its pieces."""


def read_sentencepiece(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of a folder's tokenizer.model, with the settings of its tokenizer_config.json.

    Raises:
        UserError: when the file is no SentencePiece model, or transformers reads other tokens from it.
    """
    from sentencepiece import SentencePieceProcessor
    from transformers import PreTrainedTokenizerFast

    path = folder / NAME
    with path.open("rb") as file:
        if file.read(1) != _FIRST_BYTE:
            raise UserError(
                f"{path}: no SentencePiece model; the first Llama 3 has a vocabulary of tiktoken under this name, "
                "which lacks the special tokens. Add the model's tokenizer.json: repositories with safetensors have it."
            )
    try:
        pieces = SentencePieceProcessor(model_file=str(path))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a whole SentencePiece model: {str(error).splitlines()[0]}") from None
    for probe in _PROBES:
        ids = tokenizer(probe, add_special_tokens=False)["input_ids"]
        if ids != (meant := pieces.encode(probe)):
            raise UserError(
                f"{path}: transformers reads {probe!r} as {ids}, SentencePiece as {meant}. Add the model's "
                "tokenizer.json."
            )
    return tokenizer
