"""The conversation of a chat row, whichever columns hold it.

    messages | conversations       the turns
    prompt, completion             the turns before the answer, and the answer's (TRL)
    system                         the system turn, before them (ShareGPT, LLaMA-Factory)
    tools | functions              what the model may call (functions: OpenAI's, before there were tools)
    chat_template_kwargs           variables of the chat template, of this row (TRL)

Of a prompt and its completion only the completion is trained: the assistant's turns of the prompt are context.
"""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from lodos.data.reading.rows import Row, RowError, is_unicode, shown
from lodos.data.text.fields import Columns, column_of, columns_read, has, is_conversation, value_of
from lodos.data.text.foreign_fields import preference_problem
from lodos.data.text.messages import messages_of, tools_of
from lodos.data.text.turn_weights import without_weights
from lodos.prompting.content import text_of

_SYSTEM_ROLES = ("system", "developer")


def conversation_of(row: Row, columns: Columns) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """The messages of a row and the tools it offers.

    Raises:
        RowError: for a row without a conversation or with two, turns that are not right, a system turn that
            contradicts another, or what cannot be followed.
    """
    messages = _turns(row, columns)
    if messages[-1]["role"] != "assistant" and (problem := preference_problem(row, columns_read("chat", columns))):
        raise RowError(row.where, problem)
    return _with_system_turn(messages, row, columns), _tools(row, columns)


def variables_of(row: Row, columns: Columns) -> dict[str, Any]:
    """The variables that a row gives the chat template (`chat_template_kwargs`, TRL's); those that are empty are none.

    Raises:
        RowError: when they are no mapping.
    """
    given = value_of(row, "chat_template_kwargs", columns)
    if isinstance(given, str) and given.strip():  # a CSV column holds text
        with contextlib.suppress(ValueError, RecursionError):
            given = json.loads(given)
    if not given:
        return {}
    if not isinstance(given, Mapping):
        column = str(column_of("chat_template_kwargs", columns))
        raise RowError(row.where, (column, f"must be a mapping of variables, found {shown(given)}."))
    return {name: value for name, value in given.items() if value not in (None, "", [], {})}


def messages_columns(row: Row, columns: Columns) -> list[str]:
    """The columns of a row that hold its messages: one, or a prompt and its completion.

    Raises:
        RowError: when there are none, or more than one conversation.
    """
    fields = [field for field in ("messages", "conversations") if field in columns] or ["messages", "conversations"]
    names = [name for field in fields if (name := column_of(field, columns)) is not None]
    there = [name for name in dict.fromkeys(names) if row.fields.get(name) is not None]
    pair = [str(column_of(field, columns)) for field in ("prompt", "completion")]
    has_pair = is_conversation(row, columns) and all(row.fields.get(name) is not None for name in pair)
    asks_for_messages = any(field in columns for field in ("messages", "conversations"))
    found = [[name] for name in there] + ([pair] if has_pair and not (there and asks_for_messages) else [])
    if len(found) == 1:
        return found[0]
    if found:
        which = " and ".join(" with ".join(one) for one in found)
        raise RowError(row.where, (which, "are both there. Choose with columns, such as {messages: conversations}."))
    raise RowError(
        row.where,
        (" or ".join(names), f"{'is null' if set(names) & set(row.fields) else 'is missing'}; {has(row)}."),
    )


def _turns(row: Row, columns: Columns) -> list[dict[str, Any]]:
    names = messages_columns(row, columns)
    if len(names) == 1:
        return messages_of(row, names[0])
    prompt, completion = (messages_of(row, name) for name in names)
    if prompt[-1]["role"] == "assistant":
        raise RowError(
            row.where,
            (
                f"{names[0]}[{len(prompt) - 1}]",
                "is the assistant's, with which the completion would go on in the middle of a turn. Begin the turn in "
                "the completion.",
            ),
        )
    return [*map(_as_context, prompt), *completion]


def _as_context(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message that is not trained, whatever it says of itself."""
    (told,) = without_weights([message])
    return {**told, "weight": 0} if message["role"] == "assistant" else told


def _with_system_turn(messages: list[dict[str, Any]], row: Row, columns: Columns) -> list[dict[str, Any]]:
    text = value_of(row, "system", columns)
    column = str(column_of("system", columns))
    if text is None or (isinstance(text, str) and not text.strip()):
        return messages
    if not isinstance(text, str):
        raise RowError(row.where, (column, f"must be text, found {shown(text)}."))
    if not is_unicode(text):
        raise RowError(row.where, (column, f"holds half a surrogate pair, which is no character: {shown(text)}."))
    there = [message for message in messages if message["role"] in _SYSTEM_ROLES]
    if not there:
        return [{"role": "system", "content": text}, *messages]
    other = next((said for message in there if (said := text_of(message.get("content"))) != text), None)
    if other is None:
        return messages
    raise RowError(
        row.where,
        (
            column,
            f"is {shown(text)}, and the conversation has another system turn, {shown(other)}. Leave one of them out.",
        ),
    )


def _tools(row: Row, columns: Columns) -> list[dict[str, Any]] | None:
    tools, functions = (
        None if (column := column_of(field, columns)) is None else tools_of(row, column)
        for field in ("tools", "functions")
    )
    if tools and functions:
        raise RowError(row.where, ("tools and functions", "are both there, and mean the same. Leave one of them out."))
    # The older form has the inner objects, which OpenAI has wrapped since.
    return tools or (functions and [_wrapped(function) for function in functions])


def _wrapped(function: dict[str, Any]) -> dict[str, Any]:
    return function if "function" in function else {"type": "function", "function": function}
