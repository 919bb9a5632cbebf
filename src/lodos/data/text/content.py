"""The content of a message: text, or OpenAI's list of parts of which each is text.

    "Hi"   =   ["Hi"]   =   [{"type": "text", "text": "Hi"}]

Parts of another type (an image, a sound) are nothing that a language model without eyes or ears could be trained on,
and are refused by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lodos.data.reading.rows import shown

TEXT_PARTS = ("text", "input_text", "output_text")
"""The types of parts that are text, as OpenAI's two interfaces call them."""


def parts_of(content: Sequence[Any]) -> tuple[list[dict[str, str]], list[tuple[str, str]]]:
    """The parts of a content in one form, `{"type": "text", "text": ...}`, and what is wrong with others.

    Returns:
        The parts, and (place within the content, what is wrong) for each that is no text.
    """
    parts: list[dict[str, str]] = []
    problems: list[tuple[str, str]] = []
    for i, part in enumerate(content):
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind not in TEXT_PARTS:
            problems.append((f"[{i}]", f"is of the type {shown(kind)}; only text can be trained on."))
        elif not isinstance(text, str):
            problems.append((f"[{i}]", f"must be text, found {shown(part)}."))
        else:
            parts.append({"type": "text", "text": text})
    return parts, problems
