"""The tokenizer's files: copied from one model folder to another, or written where the tokenizer has changed."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lodos.errors import UserError, refusals_of
from lodos.files import copy_compared, write_compared
from lodos.formats import sentencepiece_model
from lodos.formats.tokenizer_checks import CONFIG, WHOLE, check_tokenizer, check_tokenizer_files
from lodos.git_lfs import refuse_pointers
from lodos.json_files import OBJECT, read_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_VOCABULARIES = (WHOLE, sentencepiece_model.NAME, "vocab.json", "vocab.txt")

_PATTERNS = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*", "*.jinja",
    "additional_chat_templates/*.jinja",
)  # fmt: skip


def refuse_pointer_files(folder: Path) -> None:
    """
    Raises:
        UserError: that names the files of the folder's tokenizer and chat template that are pointers of Git LFS.
    """
    refuse_pointers(*sorted({file for pattern in _PATTERNS for file in folder.glob(pattern)}))


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of a model folder. Python code that the folder brings is never run.

    Raises:
        UserError: when there is none, not all of it, or it is such code.
    """
    from transformers import AutoTokenizer

    refuse_pointer_files(folder)
    # Without a vocabulary transformers makes a tokenizer of some special tokens, in which every text is empty.
    if not _names_code(folder) and not any((folder / name).is_file() for name in _VOCABULARIES):
        raise UserError(f"{folder}: no tokenizer: none of {', '.join(_VOCABULARIES)} is there.")
    check_tokenizer_files(folder)
    if is_sentencepiece_alone(folder):
        return sentencepiece_model.read_sentencepiece(folder)
    try:
        with refusals_of("transformers", folder):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except UserError as error:
        if _names_code(folder):
            raise UserError(
                f"{folder}: its tokenizer is Python code of the repository's (auto_map in tokenizer_config.json), "
                "which is never run. Save it once as a tokenizer.json, which fast tokenizers are, and give the folder "
                "with that."
            ) from None
        raise UserError(f"{folder}: no tokenizer that transformers can load: {_without(folder, error)}") from None
    check_tokenizer(tokenizer, folder)
    return tokenizer


def is_sentencepiece_alone(folder: Path) -> bool:
    """Whether the tokenizer is SentencePiece's file, and nothing that transformers has made of it."""
    return (folder / sentencepiece_model.NAME).is_file() and not (folder / WHOLE).is_file()


def _names_code(folder: Path) -> bool:
    path = folder / CONFIG
    return path.exists() and "AutoTokenizer" in (read_object(path, {"auto_map": OBJECT}).get("auto_map") or {})


def _without(folder: Path, error: UserError) -> str:
    return str(error).removeprefix(f"{folder}: ").removeprefix("transformers refuses it: ")


def copy_tokenizer(source: Path, destination: Path, *, chat_template: str | None = None) -> None:
    """Copies the tokenizer and chat template of one model folder to another, byte for byte.

    A tokenizer.model that is alone gets the tokenizer.json that was trained with: from the former by itself
    transformers could read other tokens.

    Args:
        chat_template: to be written in place of the folder's.

    Raises:
        OSError: if what is read back is not what was copied.
    """
    for pattern in _PATTERNS:
        for file in source.glob(pattern):
            if file.is_file():
                copy_compared(file, destination / file.relative_to(source))
    if is_sentencepiece_alone(source):
        save_tokenizer(load_tokenizer(source), destination)
    if chat_template is not None:
        write_compared(destination / "chat_template.jinja", chat_template)


def write_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Writes the files that transformers makes of a tokenizer.

    Raises:
        OSError: if what is read back is not what was written.
    """
    # transformers writes files of its own choice, and compares none.
    with tempfile.TemporaryDirectory(prefix="lodos-tokenizer-") as scratch:
        tokenizer.save_pretrained(scratch)
        for file in Path(scratch).rglob("*"):
            if file.is_file():
                copy_compared(file, folder / file.relative_to(scratch))


def save_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Writes a tokenizer that is no longer that of a folder, with its chat template.

    Raises:
        OSError: if what is read back is not what was written, or has other tokens.
    """
    from transformers import AutoTokenizer

    write_tokenizer(tokenizer, folder)
    written = AutoTokenizer.from_pretrained(folder)
    if written.get_vocab() != tokenizer.get_vocab() or written.pad_token_id != tokenizer.pad_token_id:
        raise OSError(f"{folder}: the tokenizer was read back with other tokens than it was written with.")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder brings a tokenizer of its own, whole."""
    return (folder / "tokenizer_config.json").is_file() and any((folder / name).is_file() for name in _VOCABULARIES)
