"""The messages of a chat row in one form: a list of `{"role": ..., "content": ..., ...}`.

OpenAI's form (`role`, `content`) passes through with all its keys, which are the template's to read. ShareGPT's form
(`from`, `value`) is put into OpenAI's words, what was thought before an answer into `reasoning_content`, and tool calls
into the form of `tool_calls.py`. What is empty (`tool_calls: []`, a null) is as if it were not there. A list may be
given as JSON text too, since a CSV column cannot hold anything else.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lodos.data.reading.rows import Row, RowError, shown
from lodos.data.text.content import parts_of
from lodos.data.text.tool_calls import call_of, calls_of, tools_from
from lodos.data.text.turn_weights import WEIGHT_KEYS, weight_of
from lodos.prompting.content import text_of, texts_of

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
"""The roles that templates know. A misspelt role would be rendered all the same, and its turn never trained."""

SHAREGPT_ROLES: Mapping[str, str] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""What ShareGPT's `from` says in OpenAI's words."""

SHAREGPT_CALL = "function_call"
"""What it says where the value is a call, or a list of calls, as JSON text (LLaMA-Factory)."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""The keys by which servers and templates call what was thought before an answer."""

READ_KEYS = frozenset(("role", "content", "from", "value", "tool_calls", "function_call", *REASONING, *WEIGHT_KEYS))
"""The keys of a message of which we know what they mean; others are the template's to read."""


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
        found = [("", problem)] if problem is not None else _in_one_form(told)
        problems += [(f"{name}{place}", what) for place, what in found]
        messages.append(told)
    if problems:
        raise RowError(row.where, *problems)
    return messages


def tools_of(row: Row, column: str) -> list[dict[str, Any]] | None:
    """The tools that a row offers the model, as JSON schemas; None when it has none.

    Raises:
        RowError: when they are not a list of objects.
    """
    given = row.fields.get(column)
    if not given or (isinstance(given, str) and given.strip() in ("", "null")):
        return None
    # OpenAI and Hugging Face both write {"type": "function", "function": {...}} or the inner object alone.
    tools = tools_from(given)
    if tools is None:
        raise RowError(row.where, (column, f"must be a list of JSON schemas, found {shown(given)}."))
    return tools or None


def keys_of(row: Row, column: str) -> list[str]:
    """The keys of a row's messages that hold something, and whose meaning is not known here."""
    found = {
        key: None
        for message in _decoded(row, column)
        for key, value in message.items()
        if key not in READ_KEYS and value not in (None, "", [], {})
    }
    return list(found)


def is_blank(message: Mapping[str, Any]) -> bool:
    """Whether an assistant's message says nothing: no text and no tool call."""
    says = any(text.strip() for text in texts_of(message.get("content")))
    return not says and not message.get("tool_calls")


def system_turn(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the system says before all others; "" where it says nothing."""
    first = messages[0] if messages else {}
    return text_of(first.get("content")) if first.get("role") in ("system", "developer") else ""


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
        if role == SHAREGPT_CALL and isinstance(told.get("value"), str):
            value = told.pop("value").strip()
            told |= {"role": "assistant", "tool_calls": value if value.startswith("[") else f"[{value}]"}
        if "value" in told and "content" not in told:
            told["content"] = told.pop("value")
    for key in ("tool_calls", "function_call"):
        if not told.get(key, True):
            del told[key]
    says = {"content", "tool_calls", "function_call"} & set(told)
    if told.get("role") == "assistant" and not says and {"content", "value"} & set(message):
        told["content"] = ""  # a table has null for what is empty
    return told


def _in_one_form(message: dict[str, Any]) -> list[tuple[str, str]]:
    """Puts what a message says into the form in which it is passed on; (place, what is wrong) for what cannot be."""
    problems: list[tuple[str, str]] = []
    if isinstance(message.get("content"), list):
        message["content"], wrong = parts_of(message["content"])
        problems += [(f".content{place}", what) for place, what in wrong]
    if "function_call" in message and "tool_calls" not in message:  # OpenAI's, before there could be several
        call, wrong = call_of(message.pop("function_call"))
        message["tool_calls"] = [call]
        problems += [(f".function_call{place}", what) for place, what in wrong]
    elif "tool_calls" in message:
        message["tool_calls"], wrong = calls_of(message["tool_calls"])
        problems += [(f".tool_calls{place}", what) for place, what in wrong]
        if not message["tool_calls"]:
            del message["tool_calls"]
    if message.get("refusal") and message.get("role") == "assistant" and is_blank(message):
        said = "is what it said, and its content is empty. Put it into content, or weight the message 0."
        problems.append((".refusal", said))
    return [*problems, *_with_reasoning(message), *weight_of(message)[1]]


def _with_reasoning(message: dict[str, Any]) -> list[tuple[str, str]]:
    """Puts what was thought under `reasoning_content`, too, whichever key it came by."""
    said = {key: message[key] for key in REASONING if key in message}
    for key, text in said.items():
        if not isinstance(text, str):
            return [(f".{key}", f"must be text, found {shown(text)}.")]
        if not text.strip():
            del message[key]
    texts = {text for text in said.values() if text.strip()}
    if len(texts) > 1:
        return [("", f"has different texts as {' and '.join(said)}.")]
    if texts:
        message["reasoning_content"] = texts.pop()
    return []


def _problem(message: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    role, content = message.get("role"), message.get("content")
    if role is None:
        return f"has no role; it has {', '.join(map(repr, given)) or 'nothing'}."
    if role not in ROLES:
        sharegpt = "from" in given and "role" not in given
        known = (*SHAREGPT_ROLES, SHAREGPT_CALL) if sharegpt else ROLES
        return f"has the role {shown(role)}, which is not one of {', '.join(known)}."
    if content is None:
        if message.get("tool_calls") or message.get("function_call"):
            return None
        return f"has no content; it has {', '.join(map(repr, given))}."
    if not isinstance(content, str | list):
        return f"must have text as content, found {shown(content)}."
    return None
