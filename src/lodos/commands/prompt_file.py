"""The prompts of a file: one a line, or rows in the fields of the format that the model was trained in.

A row is asked as a row of the training was, up to its last answer: with its system turn, its earlier turns, its tools
and its variables of the chat template.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from lodos.data.reading.rows import Row, RowError, shown
from lodos.data.reading.sources import read_rows
from lodos.data.text.conversation import conversation_of, variables_of
from lodos.data.text.history import history_of
from lodos.data.text.messages import messages_of, tools_of
from lodos.data.text.turn_weights import without_weights
from lodos.errors import UserError
from lodos.places.objects import read_text
from lodos.places.place import place_of
from lodos.prompting.description import Prompting
from lodos.prompting.encode import encode_messages, encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN_PROBLEMS = 10
_CONVERSATIONS = ("messages", "conversations")
_TEXTS = ("prompt", "text")


@dataclasses.dataclass(frozen=True)
class AskedPrompt:
    """A prompt as the model is given it."""

    where: str
    """Its file and row."""
    fields: dict[str, Any]
    """Of its row, all of them; of a line, `prompt`."""
    ids: list[int]


def read_prompt_file(
    path: str, tokenizer: "PreTrainedTokenizerBase", prompting: Prompting, *, answer: str
) -> list[AskedPrompt]:
    """The prompts of a file, in its order.

    Args:
        answer: the field that answers will have, which no row may have already.

    Raises:
        UserError: for a file without prompts or that cannot be read, and naming the rows that cannot be asked.
    """
    rows = _lines(path) if path.lower().endswith(".txt") else read_rows(path)
    prompts, problems = [], []
    for row in rows:
        try:
            if answer in row.fields:
                raise RowError(row.where, (answer, "is there already, and would be lost. Call it otherwise."))
            prompts.append(AskedPrompt(row.where, row.fields, _ids(row, tokenizer, prompting)))
        except RowError as error:
            problems.append(str(error))
        except UserError as error:
            problems.append(f"{row.where}: {error}")
    if problems:
        more = [f"and {len(problems) - _SHOWN_PROBLEMS} more."] if len(problems) > _SHOWN_PROBLEMS else []
        raise UserError("\n".join([*problems[:_SHOWN_PROBLEMS], *more]))
    if not prompts:
        raise UserError(f"{path}: there are no prompts in it.")
    return prompts


def _lines(path: str) -> list[Row]:
    try:
        text = read_text(place_of(path))
    except (OSError, ValueError) as error:
        raise UserError(f"prompt_file: {path} cannot be read: {error}.") from None
    # Only ends of lines: str.splitlines would cut at other characters too.
    lines = text.removesuffix("\n").split("\n") if text else []
    return [Row(path, number, {"prompt": line.removesuffix("\r")}) for number, line in enumerate(lines, 1)]


def _ids(row: Row, tokenizer: "PreTrainedTokenizerBase", prompting: Prompting) -> list[int]:
    fields = {name: value for name, value in row.fields.items() if value is not None}
    if "instruction" in fields:
        if prompting.format != "alpaca":
            raise RowError(row.where, ("instruction", f"is for prompts; {_otherwise(prompting)} --prompts alpaca."))
        if "system" in row.fields:
            system = _text(row, "system", optional=True)
            prompting = dataclasses.replace(prompting, system=system if system.strip() else None)
        return encode_prompt(
            tokenizer,
            _text(row, "instruction"),
            prompting,
            text=_text(row, "input", optional=True),
            earlier=history_of(row, {}, answers="any"),
        )
    if conversation := _conversation(row, fields):
        if not prompting.is_chat:
            raise RowError(row.where, (conversation, f"is a conversation; {_otherwise(prompting)} --chat true."))
        if conversation == "prompt":
            messages, tools = messages_of(row, conversation), tools_of(row, "tools")
        else:
            messages, tools = conversation_of(row, {})
        if variables := variables_of(row, {}):
            given = {**prompting.chat_template_kwargs, **variables}
            prompting = dataclasses.replace(prompting, chat_template_kwargs=given)
        messages = without_weights(messages)
        # A row of training has the answer that is asked for here.
        while messages and messages[-1].get("role") == "assistant":
            messages = messages[:-1]
        if not messages:
            raise RowError(row.where, (conversation, "has no turn that could be answered."))
        return encode_messages(tokenizer, messages, prompting, tools=tools)
    for name in _TEXTS:
        if name in fields:
            return encode_prompt(tokenizer, _text(row, name), prompting)
    wanted = ("instruction",) if prompting.format == "alpaca" else _CONVERSATIONS[:1] if prompting.is_chat else ()
    raise RowError(
        row.where,
        (" or ".join((*wanted, "prompt")), f"is missing; the row has {', '.join(row.fields) or 'no fields'}."),
    )


def _conversation(row: Row, fields: dict[str, Any]) -> str | None:
    """The field that holds a conversation."""
    named = next((name for name in _CONVERSATIONS if name in fields), None)
    return named or ("prompt" if isinstance(fields.get("prompt"), list) else None)


def _text(row: Row, name: str, *, optional: bool = False) -> str:
    value = row.fields.get(name)
    if optional and value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(row.where, (name, f"must be text, found {shown(value)}."))
    if not value.strip() and not optional:
        raise RowError(row.where, (name, "is empty."))
    return value


def _otherwise(prompting: Prompting) -> str:
    return f"the model is asked {prompting.describe()}. To ask otherwise, add"
