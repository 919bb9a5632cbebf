"""The same rows for all: Alpaca's prompts, tokenized once and in one way, prompts masked."""

from pathlib import Path
from typing import Any


def tokenized_rows(folder: Path, data: Path, *, max_length: int, cache: Path) -> Any:
    """The rows of a file as lodos tokenizes them, in the file's order.

    Args:
        folder: the model's, with its tokenizer.
        max_length: longest row in tokens; longer ones are an error.
        cache: folder for the tokens.
    """
    from transformers import PreTrainedTokenizerFast

    from lodos.data.config import DataArgs
    from lodos.data.prepare import prepare

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    config = DataArgs(data=str(data), max_tune_length=max_length, overflow="error", data_cache_dir=str(cache))
    return prepare(config, tokenizer, seed=0).training
