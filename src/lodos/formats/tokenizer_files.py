"""The tokenizer's files: copied from one model folder to another, or written where the tokenizer has changed."""

import filecmp
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

<<<<<<< HEAD
from lodos.errors import UserError
from lodos.formats import sentencepiece_model
=======
from lodos.files import read_json
>>>>>>> a8f08b3 (Code of a model's repository is never run; the examples upload as lodos train does)
from lodos.git_lfs import refuse_pointers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

WHOLE = "tokenizer.json"
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


<<<<<<< HEAD
def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerFast":
    """The tokenizer of a model folder.

    Args:
        trust_remote_code: let transformers run Python code that the folder brings.

    Raises:
        UserError: when there is none, or not all of it.
    """
    from transformers import AutoTokenizer

    refuse_pointer_files(folder)
    # Without a vocabulary transformers makes a tokenizer of some special tokens, in which every text is empty.
    if not trust_remote_code and not any((folder / name).is_file() for name in _VOCABULARIES):
        raise UserError(f"{folder}: no tokenizer: none of {', '.join(_VOCABULARIES)} is there.")
    if is_sentencepiece_alone(folder):
        return sentencepiece_model.read_sentencepiece(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{folder}: no tokenizer that transformers can load: {error}") from None


def is_sentencepiece_alone(folder: Path) -> bool:
    """Whether the tokenizer is SentencePiece's file, and nothing that transformers has made of it."""
    return (folder / sentencepiece_model.NAME).is_file() and not (folder / WHOLE).is_file()
=======
def names_code(folder: Path) -> bool:
    """Whether the folder's tokenizer is Python code that the model's repository brings."""
    path = folder / "tokenizer_config.json"
    return path.exists() and "AutoTokenizer" in (read_json(path).get("auto_map") or {})
>>>>>>> a8f08b3 (Code of a model's repository is never run; the examples upload as lodos train does)


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
                place = destination / file.relative_to(source)
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, place)
                if not filecmp.cmp(file, place, shallow=False):
                    raise OSError(f"{place}: read back differently than written.")
    if is_sentencepiece_alone(source):
        save_tokenizer(load_tokenizer(source), destination)
    if chat_template is not None:
        (destination / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def save_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Writes a tokenizer that is no longer that of a folder, with its chat template.

    Raises:
        OSError: if what is read back has other tokens.
    """
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    written = AutoTokenizer.from_pretrained(folder)
    if written.get_vocab() != tokenizer.get_vocab() or written.pad_token_id != tokenizer.pad_token_id:
        raise OSError(f"{folder}: the tokenizer was read back with other tokens than it was written with.")
