"""From an Alpaca file to tokenized training and held-out rows: the other files of this folder, in order."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lodos.data.examples import TextExample, TokenizedExample
from lodos.data.formats import Format, make_format
from lodos.data.rows import Row, RowError
from lodos.data.sources import read_rows
from lodos.data.split import split
from lodos.data.tokenize import Dropped, ExampleTokenizer, named
from lodos.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SHOWN_PROBLEMS = 10
"""How many problems an error lists before it says how many more there are."""


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
    alpaca = make_format("alpaca", tokenizer=tokenizer, prompts=prompts, mask_inputs=mask_inputs)
    tokenize = ExampleTokenizer(tokenizer, max_length=max_length)

    def examples(path: str) -> list[TokenizedExample]:
        return _kept(path, tokenize(text_examples(read_rows(path), alpaca)))

    if validation is None:
        return examples(data), []
    if isinstance(validation, str):
        return examples(data), examples(validation)
    return split(examples(data), validation, seed)


def text_examples(rows: Sequence[Row], format: Format) -> list[TextExample]:
    """The text of every row.

    Raises:
        UserError: listing all that is wrong, row by row; no row is ever left out.
    """
    found: list[TextExample] = []
    errors: list[RowError] = []
    for row in rows:
        try:
            found.append(format.example(row))
        except RowError as error:
            errors.append(error)
    if errors:
        problems = [line for error in errors for line in str(error).split("\n")]
        raise UserError(
            "\n".join(
                [
                    f"{len(errors)} of {len(rows)} rows are not in the format {format.describe()}:",
                    *(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS]),
                    *([f"  and {len(problems) - SHOWN_PROBLEMS} more."] if len(problems) > SHOWN_PROBLEMS else []),
                    "Mend these rows or take them out of the file.",
                ]
            )
        )
    return found


def _kept(path: str, results: Sequence[TokenizedExample | Dropped]) -> list[TokenizedExample]:
    """The rows that were not dropped; logs how many of each there are.

    Raises:
        UserError: when none is left.
    """
    kept = [result for result in results if isinstance(result, TokenizedExample)]
    dropped = [result for result in results if isinstance(result, Dropped)]
    if not results:
        raise UserError(f"{path}: there are no rows to train on.")
    reasons = [
        f"{reason}: {named(those)} ({those[0].detail})"
        for reason in dict.fromkeys(result.reason for result in dropped)
        if (those := [result for result in dropped if result.reason == reason])
    ]
    if not kept:
        raise UserError(f"{path}: none of the {len(results)} rows can be trained. " + "; ".join(reasons) + ".")
    tokens = sum(len(example.ids) for example in kept)
    trained = sum(int(example.trained.sum()) for example in kept)
    logger.info(
        "%s: %d of %d rows kept, %d tokens, %d of them trained (%.0f%%).",
        path, len(kept), len(results), tokens, trained, 100 * trained / tokens,
    )  # fmt: skip
    for reason in reasons:
        logger.warning("%s: left out, %s.", path, reason)
    return kept
