"""What a row becomes: text of which some characters are to be learned, then tokens of which some are.

row  ->  TextExample  ->  TokenizedExample  ->  a batch
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class TextExample:
    """One row as the model will read it, and which of its characters it is to learn."""

    file: str
    number: int
    """Which row of `file` it was."""
    text: str
    trained: tuple[tuple[int, int], ...]
    """Spans of characters `[start, end)`, ascending and apart."""
    has_special_tokens: bool = False
    """Whether a chat template has written BOS and the ends of turns into the text. If not, the tokenizer puts BOS in
    front and a trained EOS goes to the end."""
    special_tokens: tuple[tuple[int, int], ...] = ()
    """Spans of characters where the row's own fields spell a special token of the tokenizer. What a template wrote is
    not among them."""
    left_out: tuple[str, ...] = ()
    """What the chat template does not write of what the row says: `messages[1].content is left out ...`."""
    system: str = ""
    """The system turn that a conversation or an instruction begins with."""
    chat_template_kwargs: str = "{}"
    """The variables that the chat template was given, as JSON with its names in order."""
    has_history: bool = False
    """Whether turns stand before an instruction."""

    @property
    def where(self) -> str:
        return f"{self.file}, row {self.number}"


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedExample:
    """One row as tokens, BOS and EOS included."""

    ids: np.ndarray
    """int32 [length]."""
    trained: np.ndarray
    """bool [length]: whether predicting this token carries loss. Never the first, which nothing predicts."""
    file: str
    number: int
    """Which row of `file` it was."""
    cut: int = 0
    """How many tokens truncation has left off its end."""

    @property
    def where(self) -> str:
        return f"{self.file}, row {self.number}"
