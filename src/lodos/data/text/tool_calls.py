"""Tool calls and the definitions of tools, in one form whichever a row has.

    {"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}                                     as some write it
    {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}     as it is passed on

Arguments are an object. Where they come as JSON text, as OpenAI sends them, they are read: through a template's
`tojson` text would become a JSON string of JSON, which nobody who answers a call expects. Llama calls them
`parameters`, Anthropic `input`. What else a call holds beside its name would be lost without a word: it is refused.

Nulls in objects are dropped, from whatever file. Arrow gives every row the keys of all rows, and writes null where a
row has none; in a table such a null cannot be told from one that was meant, and the same rows are to train the same
whether they come as Parquet or as JSONL. A null that is meant is kept where arguments are JSON text, which Arrow leaves
alone.
"""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from lodos.data.reading.rows import shown

Problems = list[tuple[str, str]]
"""(place, what is wrong there) for each fault."""

ARGUMENTS = ("arguments", "parameters", "input", "args")
"""The keys by which the arguments of a call go."""

_BESIDE_ARGUMENTS = ("name", "description", "id", "type", "index", "strict")
"""What a call may hold besides."""


def calls_of(value: Any) -> tuple[list[dict[str, Any]], Problems]:
    """The tool calls of a message.

    Args:
        value: a list of calls, or JSON text of one; OpenAI's form or the inner object alone.
    """
    try:
        calls = _without_nulls(_json(value) if isinstance(value, str) else value)
    except ValueError as error:
        return [], [("", f"must be a list of tool calls, found text that is not JSON ({error}): {shown(value)}.")]
    if not isinstance(calls, list):
        return [], [("", f"must be a list of tool calls, found {shown(value)}.")]
    told: list[dict[str, Any]] = []
    problems: Problems = []
    for i, call in enumerate(calls):
        made, wrong = call_of(call)
        told.append(made)
        problems += [(f"[{i}]{place}", what) for place, what in wrong]
    return told, problems


def call_of(call: Any) -> tuple[dict[str, Any], Problems]:
    """One tool call in OpenAI's form, its arguments an object."""
    if not isinstance(call, Mapping):
        return {}, [("", f"must be a tool call with a name and arguments, found {shown(call)}.")]
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return {}, [("", f"must have the name of a function, found {shown(call)}.")]
    inner = ".function" if "function" in call else ""
    told = [key for key in ARGUMENTS if key in function]
    if len(told) > 1:
        return {}, [(inner, f"has {' and '.join(told)}, which mean the same. Leave one of them out.")]
    if lost := [key for key, item in function.items() if key not in (*told, *_BESIDE_ARGUMENTS) and _says(item)]:
        return {}, [(f"{inner}.{lost[0]}", f"is nothing that a call has: its arguments belong into {ARGUMENTS[0]}.")]
    key = told[0] if told else ARGUMENTS[0]
    given = function.get(key)
    try:
        arguments = _arguments(given)
    except ValueError as error:
        return {}, [(f"{inner}.{key}", f"is text that is not JSON ({error}): {shown(given)}.")]
    if not isinstance(arguments, Mapping):
        return {}, [(f"{inner}.{key}", f"must be a JSON object, found {shown(given)}.")]
    rest = {name: item for name, item in function.items() if name not in ARGUMENTS}
    if inner:
        return {**call, "function": {**rest, "arguments": dict(arguments)}}, []
    outer = {name: item for name, item in rest.items() if name not in ("name", "type")}
    return {**outer, "type": "function", "function": {"name": call["name"], "arguments": dict(arguments)}}, []


def tools_from(value: Any) -> list[dict[str, Any]] | None:
    """Definitions of tools: objects, without the nulls of tables.

    Args:
        value: a list of objects or of JSON texts of objects; or JSON text of a list.

    Returns:
        None for what is no such list.
    """
    try:
        given = _read(value)
        tools = [_without_nulls(_read(tool)) for tool in given] if isinstance(given, list) else None
    except ValueError:
        return None
    if tools is None or not all(isinstance(tool, dict) for tool in tools):
        return None
    return [_with_parameters(tool) for tool in tools]


def _arguments(value: Any) -> Any:
    """The arguments, of which none may be written as nothing at all, and which may be JSON text within JSON text."""
    read = (_json(value) if value.strip() else None) if isinstance(value, str) else value
    if isinstance(read, str) and read.lstrip().startswith("{"):
        read = _json(read)
    return {} if read is None else read


def _says(value: Any) -> bool:
    return value not in (None, "", [], {})


def _read(value: Any) -> Any:
    return _json(value) if isinstance(value, str) else value


def _with_parameters(tool: dict[str, Any]) -> dict[str, Any]:
    """The definition with its parameters as an object, where they come as JSON text."""
    if isinstance(tool.get("function"), dict):
        return {**tool, "function": _with_parameters(tool["function"])}
    parameters = tool.get("parameters")
    if not isinstance(parameters, str):
        return tool
    try:
        return {**tool, "parameters": _json(parameters)}
    except ValueError:
        return tool


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list | tuple) else value


def _json(text: str) -> Any:
    """
    Raises:
        ValueError: saying why it is not JSON, or which key it has twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return made


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
