"""How a model was trained to be asked, as a chat template: for programs that know no other description."""

import json
from typing import TYPE_CHECKING

from lodos.prompting.description import Prompting
from lodos.prompting.prompts import SYSTEM_END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def message_template(tokenizer: "PreTrainedTokenizerBase", prompting: Prompting | None) -> str | None:
    """A chat template that puts messages as the training put its rows; None where nothing is known.

    That of a conversation is its own. Of instructions, the last message is the instruction and a system turn the
    system text. Text that is to be gone on with stands alone.
    """
    own = tokenizer.chat_template
    own = own if isinstance(own, str) else None
    if prompting is None:
        return own
    if prompting.is_chat:
        return prompting.chat_template or own
    content = '{{ messages[-1]["content"] }}'
    if prompting.format != "alpaca" or prompting.prompts is None:
        return content
    pieces = prompting.prompts.pieces("instruction")
    asked = "".join(content if is_own else _literal(text) for text, is_own in pieces)
    usual = _literal(prompting.system + SYSTEM_END) if prompting.system else ""
    return (
        '{% if messages[0]["role"] == "system" %}{{ messages[0]["content"] }}'
        + _literal(SYSTEM_END)
        + "{% else %}"
        + usual
        + "{% endif %}"
        + asked
    )


def _literal(text: str) -> str:
    """Jinja that writes this text, whatever braces it has. A JSON string is one of Jinja's."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"
