"""From an Alpaca file to tokenized training and held-out rows: the other files of this folder, in order."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lodos.data.examples import TokenizedExample
from lodos.data.prompts import read_prompts
from lodos.data.sources import alpaca_rows, read_rows
from lodos.data.split import split
from lodos.data.tokenize import tokenize_alpaca

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def read_alpaca(
    data: str,
    validation: int | float | str | None,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    prompts: str | Mapping[str, str] | None = None,
    mask_inputs: bool = True,
    max_length: int,
    seed: int,
) -> tuple[list[TokenizedExample], list[TokenizedExample]]:
    """The training rows and the held-out rows.

    Args:
        data: a JSON or JSONL file.
        validation: a count or a share of `data` to hold out, a file of its own, or None for no held-out rows.
        max_length: in tokens; longer rows are left out and reported.
        seed: decides which rows are held out.

    Raises:
        UserError: for what is wrong with a file, a row, the prompts or the tokenizer.
    """
    templates = read_prompts(prompts)

    def examples(path: str) -> list[TokenizedExample]:
        kept, report = tokenize_alpaca(
            alpaca_rows(read_rows(path)), tokenizer, templates, mask_inputs=mask_inputs, max_length=max_length
        )
        logger.info("%s: %s", path, report)
        return kept

    if validation is None:
        return examples(data), []
    if isinstance(validation, str):
        return examples(data), examples(validation)
    return split(examples(data), validation, seed)
