"""Variables of a chat template beside the conversation, such as Qwen3's `enable_thinking`: `chat_template_kwargs`.

The word is that of TRL, Axolotl and the servers, since transformers passes them on as keyword arguments.
"""

import re
from collections.abc import Mapping
from typing import Any

TAKEN = frozenset(
    (
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "conversation",
        "chat_template",
        "continue_final_message",
        "tokenize",
        "sanitize_control_tokens",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    )
)
"""Names that mean something else to `apply_chat_template`, or that every conversation brings."""


def variable_problems(variables: Mapping[Any, Any]) -> list[str]:
    """What is wrong with variables that a template is to be given, without the name of the setting in front."""
    taken = sorted(str(name) for name in variables if name in TAKEN)
    problems = [f"{name} is no variable of a template's own: a conversation and its rows decide it." for name in taken]
    wrong = [name for name in variables if not isinstance(name, str) or not name.isidentifier()]
    problems += [f"{name!r} is no name of a variable." for name in wrong]
    problems += [
        f"{name} must be text, a number, true, false, null, or a list or mapping of these, found {value!r}."
        for name, value in variables.items()
        if not _is_plain(value)
    ]
    return problems


def asked_by(template: str, variable: str) -> bool:
    """Whether a template asks for that variable, as far as its text shows."""
    return re.search(rf"\b{re.escape(variable)}\b", template) is not None


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)
