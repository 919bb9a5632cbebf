"""The settings of the data: where rows come from, how they become tokens, and how tokens become batches."""

import dataclasses
import datetime
import math
from typing import Any, Literal

from lodos.config_secrets import HIDDEN, hides_something
from lodos.errors import UserError
from lodos.prompting.template_variables import variable_problems

DEFAULT_LONGEST_ROW = 2048

SPLIT_PREFIX = "split:"
"""Before the name of a split of `data` that is the validation set."""


# In a union the decoder takes the first type that fits, and text fits everything: hence text comes last.
Sources = list[dict[str, Any] | str] | dict[str, Any] | str
"""A file, folder, glob, URL or hub name, a mapping with one as `path`, or a list of these."""


@dataclasses.dataclass(kw_only=True)
class DataArgs:
    """Training and held-out rows, and how they are read."""

    data: Sources = dataclasses.field(metadata={"example": "rows.jsonl"})
    """Training rows: a file, folder, glob, URL or hub name, a mapping (path, split, name, revision, weight), or a list
    of these."""
    validation: int | float | Sources | None = None
    """Held-out rows: a count or a share (below 1) taken from data, split:<name> for that split of data, or a source of
    their own."""
    format: Literal["auto", "alpaca", "prompt_completion", "chat", "text"] = "auto"
    """What the rows are; auto goes by the columns of the first ones."""
    columns: dict[str, str] | None = None
    """Where the file calls our fields by other names, as our name: its name, such as {instruction: question}."""
    prompts: dict[str, str] | str | None = None
    """Templates prompt_input and prompt_no_input, as a mapping or a YAML or JSON file; Alpaca's by default."""
    chat_template: str | None = None
    """Jinja template of chat rows, as a file or as text; the tokenizer's own by default."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables that the chat template is given, such as {enable_thinking: false}; those of a row's own column of this
    name come before them."""
    template_date: str | None = None
    """The day that a chat template writes as today's, as YYYY-MM-DD; by default that on which the run begins, and the
    same ever after."""
    on_dropped_text: Literal["error", "warn"] = "error"
    """Rows of which the chat template leaves something out, such as a system turn: refused, or kept and counted."""
    mask_inputs: bool = True
    """Train on the answers only, not on the prompts."""
    train_on_turns: Literal["all", "last"] = "all"
    """Which of the assistant's turns of a chat are trained."""
    max_tune_length: int | None = None
    """Longest row in tokens, by default 2048, or seq_len where that is less; overflow says what becomes of longer
    ones."""
    overflow: Literal["drop", "error", "truncate"] = "drop"
    """Rows that are too long: left out and counted, refused, or cut at the end."""
    on_bad_row: Literal["error", "drop"] = "error"
    """Rows that do not have the format: refused, or left out and counted. Rows whose answer is empty always are the
    latter."""
    special_tokens_as_text: bool = False
    """Read special tokens that stand in a row's own text as plain characters, not as control tokens."""
    packing: bool = False
    """Put several rows into each row of a batch; no row sees another."""
    seq_len: int | None = None
    """Positions of a packed row, by default max_tune_length; without packing, the most that a row may take."""
    data_cache_dir: str | None = None
    """Folder where tokenized rows are kept between runs; by default one in the user's cache, or in $LODOS_CACHE."""
    streaming: bool = False
    """Read the rows as training goes, for data larger than the disk; nothing is cached, and a resumed run has to read
    again what it has seen."""
    shuffle_buffer: int = 10_000
    """Rows that streaming holds and draws from; rows further apart than this are never exchanged."""
    max_dropped: float = 0.5
    """Training is refused when more than this share of the rows had to be left out."""

    def __post_init__(self) -> None:
        problems = [
            f"{name}: {value} must be at least {least}."
            for name, value, least in (
                ("max_tune_length", self.max_tune_length, 2),
                ("seq_len", self.seq_len, 2),
                ("shuffle_buffer", self.shuffle_buffer, 1),
            )
            if value is not None and value < least
        ]
        if isinstance(self.validation, int | float) and not _is_amount(self.validation):
            problems.append(
                f"validation: {self.validation} must be above 0: a count of rows (1, 2, ...) or a share below 1. Leave "
                "it out for none."
            )
        problems += [f"chat_template_kwargs: {each}" for each in variable_problems(self.chat_template_kwargs or {})]
        problems += [
            f"{name}: has {HIDDEN} where a secret was: a run's config.yaml never holds one. Give it again, as --{name}."
            for name in ("data", "validation")
            if hides_something(getattr(self, name))
        ]
        if self.template_date is not None and not _is_day(self.template_date):
            problems.append(f"template_date: {self.template_date!r} is no day. Write it as YYYY-MM-DD.")
        if not 0 <= self.max_dropped <= 1:
            problems.append(f"max_dropped: {self.max_dropped} must be a share from 0 to 1.")
        if self.positions < self.longest_row - 1:
            problems.append(
                f"seq_len: {self.seq_len} does not hold a row of max_tune_length {self.max_tune_length} tokens, which "
                f"takes {self.longest_row - 1} positions. Lower max_tune_length, leave it out, or raise seq_len."
            )
        if self.streaming and isinstance(self.validation, int | float):
            problems.append(
                f"validation: {self.validation} cannot be taken from data that is streamed, whose number of rows is "
                "not known. Give a source of its own."
            )
        if problems:
            raise UserError("\n".join(problems))

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row that is taken."""
        if self.max_tune_length is not None:
            return self.max_tune_length
        return DEFAULT_LONGEST_ROW if self.seq_len is None else min(DEFAULT_LONGEST_ROW, self.seq_len)

    @property
    def positions(self) -> int:
        """Positions of a packed row."""
        return self.longest_row if self.seq_len is None else self.seq_len


def _is_day(value: str) -> bool:
    try:
        return datetime.date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _is_amount(value: int | float) -> bool:
    if isinstance(value, bool) or math.isnan(value):
        return False
    return value >= 1 if isinstance(value, int) else 0 < value < 1
