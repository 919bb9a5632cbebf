"""The messages of a chat row, as chat templates want them: a list of `{"role": ..., "content": ..., ...}`.

OpenAI's form (`role`, `content`) passes through with all its keys (`tool_calls`, `name`, `reasoning_content`, ...),
which are the template's to read. ShareGPT's form (`from`, `value`) is put into OpenAI's words. A list may be given as
JSON text too, since a CSV column cannot hold anything else.
"""

import json
from collections.abc import Mapping
from typing import Any

from lodos.data.reading.rows import Row, RowError, shown

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
"""The roles that templates know. A misspelt role would be rendered all the same, and its turn never trained."""

SHAREGPT_ROLES: Mapping[str, str] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""What ShareGPT's `from` says in OpenAI's words."""


def messages_of(row: Row, column: str) -> list[dict[str, Any]]:
    """The messages of a row, checked: every one has a known role, and content unless it calls tools.

    Raises:
        RowError: naming every message that is not right.
    """
    given = _decoded(row, column)
    if not isinstance(given, list) or not given:
        raise RowError(row.where, (column, f"must be a list of messages, found {shown(row.fields[column])}."))
    messages: list[dict[str, Any]] = []
    problems: list[tuple[str, str]] = []
    for i, message in enumerate(given):
        name = f"{column}[{i}]"
        if not isinstance(message, dict):
            problems.append((name, f"must be a message with role and content, found {shown(message)}."))
            continue
        told = _in_openai_words(message)
        problem = _problem(told, message)
        if problem is not None:
            problems.append((name, problem))
        messages.append(told)
    if problems:
        raise RowError(row.where, *problems)
    return messages


def tools_of(row: Row, column: str) -> list[dict[str, Any]] | None:
    """The tools that a row offers the model, as JSON schemas; None when it has none.

    Raises:
        RowError: when they are not a list of objects.
    """
    if not row.fields.get(column):
        return None
    tools = _decoded(row, column)
    # OpenAI and Hugging Face both write {"type": "function", "function": {...}} or the inner object alone.
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError(row.where, (column, f"must be a list of JSON schemas, found {shown(row.fields[column])}."))
    return tools or None


def is_blank(message: Mapping[str, Any]) -> bool:
    """Whether an assistant's message says nothing: no text, no block of any kind, no tool call."""
    content = message.get("content")
    says = bool(content.strip()) if isinstance(content, str) else bool(content)
    return not says and not message.get("tool_calls")


def _decoded(row: Row, column: str) -> Any:
    value = row.fields[column]
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowError(row.where, (column, f"must be a list, found text that is not JSON: {shown(value)}.")) from None


def _in_openai_words(message: dict[str, Any]) -> dict[str, Any]:
    # Arrow fills the keys that only other messages have with null; templates test whether a key is there.
    told = {key: value for key, value in message.items() if value is not None}
    if "from" in told and "role" not in told:
        role = told.pop("from")
        told["role"] = SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
        if "value" in told and "content" not in told:
            told["content"] = told.pop("value")
    return told


def _problem(message: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    role, content = message.get("role"), message.get("content")
    if role is None:
        return f"has no role; it has {', '.join(map(repr, given)) or 'nothing'}."
    if role not in ROLES:
        sharegpt = "from" in given and "role" not in given
        known = SHAREGPT_ROLES if sharegpt else ROLES
        return f"has the role {shown(role)}, which is not one of {', '.join(known)}."
    if content is None:
        if message.get("tool_calls"):
            return None
        return f"has no content; it has {', '.join(map(repr, given))}."
    if not isinstance(content, str | list):
        return f"must have text as content, found {shown(content)}."
    return None
