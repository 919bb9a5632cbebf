"""The tokenizer's files: copied from one model folder to another, or written where the tokenizer has changed."""

import filecmp
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lodos.git_lfs import refuse_pointers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


def copy_tokenizer(source: Path, destination: Path, *, chat_template: str | None = None) -> None:
    """Copies the tokenizer and chat template of one model folder to another, byte for byte.

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
