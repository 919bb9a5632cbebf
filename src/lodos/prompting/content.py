"""The text of a message's content: text itself, or OpenAI's list of parts of text.

"Hi"   =   ["Hi"]   =   [{"type": "text", "text": "Hi"}]
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Part = Mapping[str, Any]


def text_of(content: str | Sequence[Part] | None) -> str:
    """The content as one text: its parts one after the other, with nothing between them."""
    return "".join(texts_of(content))


def texts_of(content: str | Sequence[Part] | None) -> Iterator[str]:
    """The texts of a content."""
    if isinstance(content, str):
        yield content
    elif content is not None:
        yield from (part["text"] for part in content)
