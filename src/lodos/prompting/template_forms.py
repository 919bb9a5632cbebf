"""The forms in which a chat template takes what a row says, found out by asking it.

Templates differ in what they can write: content as text, as a list of parts, or both; the arguments of a call as an
object, which they write as JSON, or as JSON text, which they put in as it is; calls and tools in OpenAI's form or the
inner object alone. Given another form they fail, write Python's `[{'type': ...`, or write nothing. So each is asked to
write something that is known, in each form, and a row is put into a form that came out well; its own, where that did.
"""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lodos.errors import UserError
from lodos.prompting.content import text_of

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]
Render = Callable[[Messages, Tools | None], str]
"""The text of a conversation. Raises UserError when the template refuses it."""

_HALVES = ("qzxjkv", "vwqzjx")
_KNOWN = "".join(_HALVES)
"""A text that no template writes of its own accord."""
_LISTED = re.compile(rf"""["']text\\?["']:\s*\\?["']{_HALVES[0]}""")
_KEY, _VALUE = "wvqkey", "wvqvalue"
_USER: dict[str, Any] = {"role": "user", "content": "a"}
_CALL_ID = "abcdefgh1"  # Mistral's templates take nine letters and digits


class TemplateForms:
    """What a template takes; each question is asked when a row first needs the answer."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._content: dict[str, tuple[bool, bool]] = {}
        self._calls: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
        self._needs_content = False
        self._tools: tuple[bool, bool] | None = None

    def fitted(self, messages: Messages) -> list[dict[str, Any]]:
        """The messages, as `messages_of` gives them, in the forms that the template takes."""
        told = [dict(message) for message in messages]
        for message in told:
            if "content" in message:
                message["content"] = self._fitted_content(message["role"], message["content"])
            if message.get("tool_calls"):
                write = self._call_writer()
                message["tool_calls"] = [write(call) for call in message["tool_calls"]]
                if self._needs_content:
                    message.setdefault("content", "")
        return told

    def fitted_tools(self, tools: Tools | None) -> list[dict[str, Any]] | None:
        """The definitions of tools in the form that the template takes."""
        if tools is None:
            return None
        if self._tools is None:
            function = {"name": _KNOWN, "description": "a", "parameters": {"type": "object", "properties": {}}}
            nested = {"type": "function", "function": function}
            self._tools = self._writes([_USER], [nested]), self._writes([_USER], [function])
        takes_nested, takes_inner = self._tools

        def fitted(tool: Mapping[str, Any]) -> dict[str, Any]:
            is_nested = "function" in tool
            if is_nested and takes_inner and not takes_nested:
                return dict(tool["function"])
            if not is_nested and takes_nested and not takes_inner:
                return {"type": "function", "function": dict(tool)}
            return dict(tool)

        return [fitted(tool) for tool in tools]

    def _fitted_content(self, role: str, content: Any) -> Any:
        if role not in self._content:
            self._content[role] = self._asked_content(role)
        takes_text, takes_parts = self._content[role]
        if isinstance(content, str):
            return [{"type": "text", "text": content}] if takes_parts and not takes_text else content
        return content if takes_parts else text_of(content)

    def _asked_content(self, role: str) -> tuple[bool, bool]:
        def writes(content: Any) -> bool:
            message = {"role": role, "content": content}
            if role == "assistant":
                return self._writes([_USER, message])
            if role in ("tool", "function", "ipython"):
                call = self._call_writer()(_call({_KEY: _VALUE}))
                named = {**message, "tool_call_id": _CALL_ID, "name": "f"}
                return self._writes([_USER, {"role": "assistant", "content": "", "tool_calls": [call]}, named])
            return self._writes([message] if role == "user" else [message, _USER])

        # Some write the first part alone.
        return writes(_KNOWN), writes([{"type": "text", "text": half} for half in _HALVES])

    def _writes(self, messages: Messages, tools: Tools | None = None) -> bool:
        """Whether the known text comes out, and not within a list of Python's or JSON's."""
        text = self._rendered(messages, tools)
        return all(half in text for half in _HALVES) and not _LISTED.search(text)

    def _rendered(self, messages: Messages, tools: Tools | None = None) -> str:
        try:
            return self._render(messages, tools)
        except UserError:
            return ""

    def _call_writer(self) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        if self._calls is None:
            self._calls = _nested
            writers = (_nested, _nested_with_text, _inner, _inner_with_text)
            for content, write in itertools.product(({}, {"content": ""}), writers):
                if self._writes_call({"role": "assistant", **content, "tool_calls": [write(_call({_KEY: _VALUE}))]}):
                    self._calls, self._needs_content = write, bool(content)
                    break
        return self._calls

    def _writes_call(self, message: Mapping[str, Any]) -> bool:
        """Whether name, key and value come out, and the arguments neither as Python's nor as a JSON string of JSON."""
        text = self._rendered([_USER, message])
        is_pythons = f"'{_KEY}':" in text
        is_string_of_json = f'\\"{_KEY}' in text
        return all(word in text for word in (_KNOWN, _KEY, _VALUE)) and not is_pythons and not is_string_of_json


def _call(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": _CALL_ID, "type": "function", "function": {"name": _KNOWN, "arguments": dict(arguments)}}


def _nested(call: Mapping[str, Any]) -> dict[str, Any]:
    return dict(call)


def _nested_with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    return {**call, "function": _with_text(call["function"])}


def _inner(call: Mapping[str, Any]) -> dict[str, Any]:
    outer = {key: value for key, value in call.items() if key not in ("type", "function")}
    return {**outer, **call["function"]}


def _inner_with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    return _with_text(_inner(call))


def _with_text(function: Mapping[str, Any]) -> dict[str, Any]:
    return {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
