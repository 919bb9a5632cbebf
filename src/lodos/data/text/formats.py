"""The formats of rows: what fields they have, how to tell them apart, and the text each becomes.

    alpaca              instruction, [input], output    the prompts of `prompts.py`; the output is trained
    prompt_completion   prompt, completion              put together as they are; the completion is trained
    chat                messages, [tools]               a chat template; the assistant's turns are trained
    text                text                            all of it is trained

ShareGPT's `conversations` is chat, too. A file may call the fields otherwise: `columns` maps our names to its own, such
as `{instruction: question, output: answer}` for GSM8K.

Knows nothing of token ids.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lodos.data.examples import TextExample
from lodos.data.reading.rows import EmptyAnswerError, Row, RowError, is_unicode, shown
from lodos.data.text.chat import ChatTemplate
from lodos.data.text.messages import messages_of, tools_of
from lodos.data.text.special_tokens import SpecialTokens
from lodos.errors import UserError
from lodos.prompting.prompts import Prompts, read_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Fields:
    """The names of a format's fields."""

    required: tuple[str, ...]
    """Each may be several names, of which a row has one: `messages|conversations`."""
    optional: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*(name for one_of in self.required for name in one_of.split("|")), *self.optional)

    def missing(self, has: Iterable[str]) -> list[str]:
        """The required ones that are not among `has`."""
        there = set(has)
        return [one_of for one_of in self.required if not there.intersection(one_of.split("|"))]


FORMATS: Mapping[str, Fields] = {
    "alpaca": Fields(("instruction", "output"), ("input",)),
    "prompt_completion": Fields(("prompt", "completion")),
    "chat": Fields(("messages|conversations",), ("tools",)),
    "text": Fields(("text",)),
}
"""The formats by name."""


class Format(Protocol):
    """What a row of one format becomes. Can be pickled."""

    @property
    def name(self) -> str:
        """One of `FORMATS`."""
        ...

    def example(self, row: Row) -> TextExample:
        """The text of a row and what of it is trained.

        Raises:
            RowError: naming all that is wrong with the row.
        """
        ...

    def describe(self) -> str:
        """One line: the format and the columns it reads, as the file calls them."""
        ...


def recognise(rows: Sequence[Row], columns: Mapping[str, str] | None = None) -> str:
    """The name of the one format that fits the first rows of a file.

    A format fits when some row has all its required fields, so that a broken row among the first is reported as such
    later. A null is no field, since tables have every column in every row. With `columns`, only formats that have all
    the fields it names can fit.

    Raises:
        UserError: when two formats fit or none does, with the columns and the candidates; or for `columns` that name a
            field of no format or a column of no row.
    """
    columns = columns or {}
    _check_names(columns)
    if not rows:
        raise UserError("There are no rows to recognise a format from.")
    of_rows = [_our_names(row.fields, columns) for row in rows]
    file = rows[0].file
    present = list(dict.fromkeys(name for row in rows for name in row.fields))
    lost = [f"{ours}: {theirs}" for ours, theirs in columns.items() if theirs not in present]
    if lost:
        raise UserError(
            f"{file}: columns: no row has {', '.join(repr(entry.split(': ', 1)[1]) for entry in lost)} "
            f"(of {', '.join(lost)}); the columns are {_listed(present)}."
        )
    fitting = [
        name
        for name, fields in FORMATS.items()
        if set(columns) <= set(fields.names) and any(not fields.missing(names) for names in of_rows)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(
            f"{file}: the format is not clear: the columns {_listed(present)} fit {' and '.join(fitting)}. "
            f"Set format to one of them."
        )
    raise _no_format(f"{file}: no format fits the columns {_listed(present)}:", columns, of_rows, present)


def _no_format(says: str, columns: Mapping[str, str], of_rows: Sequence[set[str]], present: Sequence[str]) -> UserError:
    """Says why each format does not fit."""
    lines = [says]
    for name, fields in FORMATS.items():
        strangers = [ours for ours in columns if ours not in fields.names]
        missing = [
            one_of.replace("|", " or ") + (" (null in every row)" if columns.get(one_of, one_of) in present else "")
            for one_of in fields.missing(set().union(*of_rows))
        ]
        if strangers:
            lines.append(f"  {name} has no {' or '.join(strangers)}, which columns names")
        elif missing:
            lines.append(f"  {name} needs {', '.join(missing)}")
        else:
            lines.append(f"  {name} needs its fields in one and the same row")
    lines.append("Set columns to our names and the file's, such as columns: {instruction: question, output: answer}.")
    return UserError("\n".join(lines))


def make_format(
    name: str,
    *,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: str | Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    chat_template: str | None = None,
    mask_inputs: bool = True,
    train_on_turns: Literal["all", "last"] = "all",
) -> Format:
    """The format of that name. Options that are another format's have no effect.

    Args:
        tokenizer: its special tokens are looked for in rows; its chat template writes chat rows.
        prompts: of alpaca rows, as `read_prompts` takes them.
        columns: our field names to the file's.
        chat_template: of chat rows: a Jinja file or the template itself; the tokenizer's by default.
        mask_inputs: train what is answered only; otherwise all of the text.
        train_on_turns: which turns of the assistant are trained.

    Raises:
        UserError: for an unknown name, columns of other formats, or bad prompts or templates.
    """
    if name not in FORMATS:
        raise UserError(f"format: {name!r} is not one of {', '.join(FORMATS)}{_nearest(name, FORMATS)}.")
    if train_on_turns not in ("all", "last"):
        raise UserError(f"train_on_turns: {train_on_turns!r} is not one of all, last.")
    columns = dict(columns or {})
    _check_names(columns)
    strangers = [ours for ours in columns if ours not in FORMATS[name].names]
    if strangers:
        raise UserError(
            f"columns: {', '.join(strangers)} {'is' if len(strangers) == 1 else 'are'} no field of {name}, which has "
            f"{', '.join(FORMATS[name].names)}."
        )
    if name == "chat":
        if train_on_turns == "last" and not mask_inputs:
            raise UserError("train_on_turns: last trains one turn, mask_inputs: false all of the text. Choose one.")
        return ChatFormat(ChatTemplate(tokenizer, chat_template), columns, mask_inputs, train_on_turns)
    special = SpecialTokens(tokenizer)
    if name == "alpaca":
        return AlpacaFormat(read_prompts(prompts), special, columns, mask_inputs)
    if name == "prompt_completion":
        return PromptCompletionFormat(special, columns, mask_inputs)
    return TextFormat(special, columns)


@dataclass(frozen=True)
class AlpacaFormat:
    """An instruction, perhaps with an input, and the output that follows the prompt at once."""

    prompts: Prompts
    special: SpecialTokens
    columns: Mapping[str, str] = field(default_factory=dict)
    mask_inputs: bool = True
    name: str = "alpaca"

    def example(self, row: Row) -> TextExample:
        """The prompt with instruction and input, then the output, which is trained."""
        instruction, text, output = _texts(
            row, self.columns, (("instruction", "full"), ("input", "optional"), ("output", "answer"))
        )
        prompt = self.prompts.pieces(instruction, text)
        return _joined(
            row, [*prompt, (output, True)], self.special, trained_from=len(prompt) if self.mask_inputs else 0
        )

    def describe(self) -> str:
        """`alpaca: instruction, input, output`."""
        return _described(self.name, ("instruction", "input", "output"), self.columns)


@dataclass(frozen=True)
class PromptCompletionFormat:
    """A prompt, which may be empty, and the completion that follows it as it is, without a space between."""

    special: SpecialTokens
    columns: Mapping[str, str] = field(default_factory=dict)
    mask_inputs: bool = True
    name: str = "prompt_completion"

    def example(self, row: Row) -> TextExample:
        """Prompt and completion; the completion is trained."""
        prompt, completion = _texts(row, self.columns, (("prompt", "any"), ("completion", "answer")))
        pieces = [(prompt, True), (completion, True)]
        return _joined(row, pieces, self.special, trained_from=1 if self.mask_inputs else 0)

    def describe(self) -> str:
        """`prompt_completion: prompt, completion`."""
        return _described(self.name, ("prompt", "completion"), self.columns)


@dataclass(frozen=True)
class TextFormat:
    """Text, all of which is trained."""

    special: SpecialTokens
    columns: Mapping[str, str] = field(default_factory=dict)
    name: str = "text"

    def example(self, row: Row) -> TextExample:
        """The text."""
        (text,) = _texts(row, self.columns, (("text", "answer"),))
        return _joined(row, [(text, True)], self.special, trained_from=0)

    def describe(self) -> str:
        """`text: text`."""
        return _described(self.name, ("text",), self.columns)


@dataclass(frozen=True)
class ChatFormat:
    """A conversation, written by a chat template; the assistant's turns are trained, each up to the token that ends
    it."""

    template: ChatTemplate
    columns: Mapping[str, str] = field(default_factory=dict)
    mask_inputs: bool = True
    turns: Literal["all", "last"] = "all"
    name: str = "chat"

    def example(self, row: Row) -> TextExample:
        """The text of the conversation, as `apply_chat_template` has it."""
        messages = messages_of(row, self._messages_column(row))
        tools = tools_of(row, self.columns.get("tools", "tools"))
        text, trained = self.template.trained_spans(messages, tools, turns=self.turns, where=row.where)
        return TextExample(
            row.file,
            row.number,
            text,
            trained if self.mask_inputs else ((0, len(text)),),
            has_special_tokens=True,
            special_tokens=self.template.special_tokens_of_row(messages, tools, text, row.where),
        )

    def describe(self) -> str:
        """`chat: messages, tools; every turn of the assistant is trained`."""
        named = "conversations" if "conversations" in self.columns else "messages"
        which = "every turn" if self.turns == "all" else "the last turn"
        what = f"{which} of the assistant is trained" if self.mask_inputs else "all of the text is trained"
        return f"{_described(self.name, (named, 'tools'), self.columns)}; {what}"

    def _messages_column(self, row: Row) -> str:
        names = [self.columns.get(name, name) for name in ("messages", "conversations")]
        if self.columns.keys() & {"messages", "conversations"}:
            names = [theirs for ours, theirs in self.columns.items() if ours in ("messages", "conversations")]
        there = [name for name in dict.fromkeys(names) if row.fields.get(name) is not None]
        if len(there) == 1:
            return there[0]
        if there:
            raise RowError(
                row.where,
                (" and ".join(there), "are both there. Choose with columns, such as {messages: conversations}."),
            )
        raise RowError(
            row.where,
            (" or ".join(names), f"{'is null' if set(names) & set(row.fields) else 'is missing'}; {_has(row)}."),
        )


Kind = Literal["answer", "full", "any", "optional"]
"""Of a text: must say something, and is what is trained; must say something; may be empty; may be empty, null or
absent."""


def _texts(row: Row, columns: Mapping[str, str], wanted: Sequence[tuple[str, Kind]]) -> list[str]:
    """The texts of a row, in the order wanted.

    Raises:
        EmptyAnswerError: when that is all that is wrong with it.
        RowError: naming all that is wrong with it.
    """
    problems: list[tuple[str, str]] = []
    empty_answers = 0
    found: list[str] = []
    for name, kind in wanted:
        column = columns.get(name, name)
        value = row.fields.get(column)
        found.append(value if isinstance(value, str) else "")
        if not isinstance(value, str):
            if column not in row.fields and kind != "optional":
                problems.append((column, f"is missing; {_has(row)}."))
            elif kind != "optional" or value is not None:
                problems.append((column, f"must be text, found {shown(value)}."))
        elif kind in ("answer", "full") and not value.strip():
            problems.append((column, f"is empty, found {shown(value)}."))
            empty_answers += kind == "answer"
        elif not is_unicode(value):
            problems.append((column, f"holds half a surrogate pair, which is no character: {shown(value)}."))
    if problems:
        raise (EmptyAnswerError if len(problems) == empty_answers else RowError)(row.where, *problems)
    return found


def _joined(row: Row, pieces: Sequence[tuple[str, bool]], special: SpecialTokens, *, trained_from: int) -> TextExample:
    """The pieces (text, whether it is the row's own) as one text, of which those from `trained_from` on are trained."""
    text = "".join(piece for piece, _ in pieces)
    start = sum(len(piece) for piece, _ in pieces[:trained_from])
    return TextExample(row.file, row.number, text, ((start, len(text)),), special_tokens=special.in_row_text(pieces))


def _our_names(fields: Mapping[str, Any], columns: Mapping[str, str]) -> set[str]:
    """The fields that a row has, in our words."""
    return {name for name in _all_names() if fields.get(columns.get(name, name)) is not None}


def _all_names() -> Iterator[str]:
    return (name for fields in FORMATS.values() for name in fields.names)


def _check_names(columns: Mapping[str, str]) -> None:
    known = list(_all_names())
    problems = [
        f"columns: {name!r} is no field of any format; there are {', '.join(known)}{_nearest(name, known)}."
        for name in columns
        if name not in known
    ]
    problems += [
        f"columns: {name} must be the name of a column, found {shown(theirs)}."
        for name, theirs in columns.items()
        if not isinstance(theirs, str)
    ]
    if problems:
        raise UserError("\n".join(problems))


def _described(name: str, fields: Sequence[str], columns: Mapping[str, str]) -> str:
    named = (f"{ours}={columns[ours]}" if columns.get(ours, ours) != ours else ours for ours in fields)
    return f"{name}: {', '.join(named)}"


def _has(row: Row) -> str:
    return f"the row has {_listed(list(row.fields)) or 'no fields'}"


def _listed(names: Sequence[str], most: int = 20) -> str:
    text = ", ".join(shown(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (nearest: {near[0]})" if near else ""
