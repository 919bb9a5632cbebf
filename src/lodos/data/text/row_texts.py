"""The texts of a chat row that are meant to be seen, one after the other, and the row with any of them changed.

    messages[1].content                                   what is said; each part of it that is a text
    messages[1].reasoning_content                         what was thought before
    messages[1].tool_calls[0].function.name, .arguments   names and values
    tools[0].name, .description, .parameters              names, descriptions, choices and defaults

Not among them is what only has a form for a program: roles, ids, the types of JSON schemas.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lodos.data.text.messages import REASONING

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]

_THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]")
_CHOICES = ("enum", "const", "default", "examples")


class RowText(NamedTuple):
    """A text, or a number of the arguments of a call."""

    name: str
    """Its place: `messages[1].content`."""
    message: int | None
    """Of which message it is; None for tools."""
    value: Any
    kind: Literal["text", "key", "value"]
    """A key is the name of an argument or parameter; a value is a number, true, false or null."""
    is_instruction: bool = False
    """Of a system turn or a tool: templates write them where they like."""
    thought: int = 0
    """How many of its first characters are what was thought before an answer."""


Change = Callable[[RowText], Any]
"""What stands in the place of a text."""


def changed(messages: Messages, tools: Tools | None, change: Change) -> tuple[list[dict[str, Any]], Any]:
    """The row with each text changed, which are asked for in order: of the tools, then message by message."""
    new_tools = None if tools is None else [_tool(tool, f"tools[{i}]", change) for i, tool in enumerate(tools)]
    return [_message(message, i, change) for i, message in enumerate(messages)], new_tools


def _message(message: Mapping[str, Any], i: int, change: Change) -> dict[str, Any]:
    told = dict(message)
    name, role = f"messages[{i}]", message.get("role")
    is_instruction = role in ("system", "developer")
    thought = message.get("reasoning_content")
    if isinstance(thought, str):
        new = change(RowText(f"{name}.reasoning_content", i, thought, "text", thought=len(thought)))
        told |= {key: new for key in (*REASONING, "reasoning_content") if key in message}

    def said(text: str, place: str) -> Any:
        ends = [match.end() for match in _THOUGHT.finditer(text)] if role == "assistant" else []
        return change(RowText(place, i, text, "text", is_instruction, ends[-1] if ends else 0))

    content = message.get("content")
    if isinstance(content, str):
        told["content"] = said(content, f"{name}.content")
    elif isinstance(content, list):
        told["content"] = [
            {**part, "text": said(part["text"], f"{name}.content[{k}]")} for k, part in enumerate(content)
        ]
    if message.get("tool_calls"):
        told["tool_calls"] = [
            _call(call, f"{name}.tool_calls[{k}]", i, change) for k, call in enumerate(message["tool_calls"])
        ]
    return told


def _call(call: Mapping[str, Any], name: str, i: int, change: Change) -> dict[str, Any]:
    if "function" in call:
        return {**call, "function": _call(call["function"], f"{name}.function", i, change)}
    told = {**call, "name": change(RowText(f"{name}.name", i, call["name"], "text"))}
    told["arguments"] = _value(call["arguments"], f"{name}.arguments", i, change)
    return told


def _value(value: Any, name: str, i: int, change: Change) -> Any:
    if isinstance(value, Mapping):
        return {
            change(RowText(f"{name}.{key}", i, key, "key")): _value(item, f"{name}.{key}", i, change)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_value(item, f"{name}[{k}]", i, change) for k, item in enumerate(value)]
    return change(RowText(name, i, value, "text" if isinstance(value, str) else "value"))


def _tool(tool: Mapping[str, Any], name: str, change: Change) -> dict[str, Any]:
    if isinstance(tool.get("function"), Mapping):
        return {**tool, "function": _tool(tool["function"], f"{name}.function", change)}
    told = dict(tool)
    for key, value in tool.items():
        if key in ("name", "description") and isinstance(value, str):
            told[key] = change(RowText(f"{name}.{key}", None, value, "text", is_instruction=True))
        elif isinstance(value, Mapping):
            told[key] = _schema(value, f"{name}.{key}", change)
    return told


def _schema(schema: Any, name: str, change: Change) -> Any:
    """A JSON schema, or a part of one, with the names of its properties, its descriptions and its choices changed."""
    if isinstance(schema, list):
        return [_schema(item, f"{name}[{k}]", change) for k, item in enumerate(schema)]
    if not isinstance(schema, Mapping):
        return schema
    told = dict(schema)
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        new_names = {
            key: change(RowText(f"{name}.properties.{key}", None, key, "key", is_instruction=True))
            for key in properties
        }
        told["properties"] = {
            new_names[key]: _schema(item, f"{name}.properties.{key}", change) for key, item in properties.items()
        }
        # A template that looks a name up among those that are required is to find it.
        if isinstance(schema.get("required"), list):
            told["required"] = [new_names.get(key, key) if isinstance(key, str) else key for key in schema["required"]]
    for key, value in schema.items():
        if key == "description" and isinstance(value, str):
            told[key] = change(RowText(f"{name}.{key}", None, value, "text", is_instruction=True))
        elif key in _CHOICES:
            told[key] = _choices(value, f"{name}.{key}", change)
        elif key not in ("properties", "required"):
            told[key] = _schema(value, f"{name}.{key}", change)
    return told


def _choices(value: Any, name: str, change: Change) -> Any:
    if isinstance(value, list):
        return [_choices(item, f"{name}[{k}]", change) for k, item in enumerate(value)]
    return change(RowText(name, None, value, "text", is_instruction=True)) if isinstance(value, str) else value
