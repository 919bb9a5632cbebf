"""A conversation as it is asked: what of its earlier turns goes into the next prompt, as the model was trained.

A model of conversations is given all turns that its positions hold; the oldest are forgotten first. One that was
trained on single instructions or texts has met no earlier turns, so it is given each message alone.
"""

import dataclasses
from typing import TYPE_CHECKING

from lodos.errors import UserError
from lodos.prompting.description import Prompting
from lodos.prompting.encode import encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class NextPrompt:
    """What the model is given."""

    ids: list[int]
    max_new_tokens: int
    forgotten: int
    """Earlier turns that there was no room for."""


class Conversation:
    """The turns so far.

    Args:
        positions: how many tokens a prompt and its answer may have together.
        max_new_tokens: of an answer; earlier turns are forgotten for at most a quarter of the positions.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", prompting: Prompting, *, positions: int, max_new_tokens: int
    ) -> None:
        self._tokenizer = tokenizer
        self._positions = positions
        self._max_new_tokens = max_new_tokens
        self.prompting = prompting
        self.exchanges: list[tuple[str, str]] = []
        """What was said and answered, the oldest first."""

    @property
    def has_history(self) -> bool:
        """Whether earlier turns are part of a prompt."""
        return self.prompting.has_turns

    def ask(self, message: str) -> NextPrompt:
        """The prompt of the next turn; turns that it has no room for are forgotten.

        Raises:
            UserError: for a message that the model has no positions for, or that the chat template refuses.
        """
        wanted = min(self._max_new_tokens, max(self._positions // 4, 1))
        forgotten = 0
        while True:
            earlier = self.exchanges[forgotten:] if self.has_history else []
            ids = encode_prompt(self._tokenizer, message, self.prompting, earlier=earlier)
            if len(ids) + wanted <= self._positions or not earlier:
                break
            forgotten += 1
        left = self._positions - len(ids)
        if left < 1:
            raise UserError(
                f"The message takes {len(ids)} tokens, and the model has {self._positions} positions. Shorten it."
            )
        del self.exchanges[:forgotten]
        return NextPrompt(ids, min(self._max_new_tokens, left), forgotten)

    def note(self, message: str, answer: str) -> None:
        """Adds a turn that was answered."""
        self.exchanges.append((message, answer))

    def undo(self) -> bool:
        """Takes the last turn back; whether there was one."""
        return bool(self.exchanges) and self.exchanges.pop() is not None

    def set_system(self, text: str) -> None:
        """Another system turn, from the next prompt on; none for an empty text.

        Raises:
            UserError: where there is none.
        """
        if not self.prompting.has_system:
            raise UserError(f"There is no place for a system turn: this model is asked {self.prompting.describe()}.")
        self.prompting = dataclasses.replace(self.prompting, system=text or None)
