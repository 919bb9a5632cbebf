"""The formats of rows, and the text each becomes.

    alpaca              instruction, [input], output, [system], [history]    the prompts of instructions; outputs are
                                                                             trained
    prompt_completion   prompt, completion              put together as they are; the completion is trained
    chat                messages, [system], [tools]     a chat template; the assistant's turns are trained
    text                text                            all of it is trained

ShareGPT's `conversations` is chat, too, and so is TRL's prompt and completion as lists of messages. A file may call the
fields otherwise: `columns` maps our names to its own, such as `{instruction: question, output: answer}` for GSM8K.

Knows nothing of token ids.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lodos.data.examples import TextExample
from lodos.data.reading.rows import DroppedTextError, EmptyAnswerError, Row, RowError, is_unicode, shown
from lodos.data.text.chat import ChatTemplate
from lodos.data.text.conversation import conversation_of, messages_columns, variables_of
from lodos.data.text.fields import (
    BESIDE_MESSAGES,
    FORMATS,
    Columns,
    check_columns,
    column_of,
    columns_of,
    columns_read,
    has,
    nearest,
    unread_columns,
)
from lodos.data.text.foreign_fields import foreign_problems
from lodos.data.text.history import history_of
from lodos.data.text.messages import keys_of, system_turn
from lodos.errors import UserError
from lodos.prompting.prompts import SYSTEM_END, Prompts, read_prompts
from lodos.prompting.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SHOWN_TEXTS = 5
"""Texts of a row that are named when a template leaves them out."""


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

    def unread(self, row: Row) -> Sequence[str]:
        """The columns that hold something and that nothing reads."""
        ...

    def describe(self, has: Collection[str] = ()) -> str:
        """One line: the format and the columns it reads, as the file calls them.

        Args:
            has: fields that the rows have; of those that a row may do without, only these are named.
        """
        ...


def make_format(
    name: str,
    *,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: str | Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    mask_inputs: bool = True,
    template_date: str | None = None,
    train_on_turns: Literal["all", "last"] = "all",
    on_dropped_text: Literal["error", "warn"] = "error",
) -> Format:
    """The format of that name. Options that are another format's have no effect.

    Args:
        tokenizer: its special tokens are looked for in rows; its chat template writes chat rows.
        prompts: of alpaca rows, as `read_prompts` takes them.
        columns: our field names to the file's.
        chat_template: of chat rows: a Jinja file or the template itself; the tokenizer's by default.
        chat_template_kwargs: variables that the template is given.
        mask_inputs: train what is answered only; otherwise all of the text.
        template_date: the day that a chat template writes as today's, as YYYY-MM-DD; by default today.
        train_on_turns: which turns of the assistant are trained.
        on_dropped_text: whether a chat row is refused of which the template leaves something out.

    Raises:
        UserError: for an unknown name, columns of other formats, or bad prompts or templates.
    """
    if name not in FORMATS:
        raise UserError(f"format: {name!r} is not one of {', '.join(FORMATS)}{nearest(name, FORMATS)}.")
    if train_on_turns not in ("all", "last"):
        raise UserError(f"train_on_turns: {train_on_turns!r} is not one of all, last.")
    columns = dict(columns or {})
    check_columns(columns, name)
    if name == "chat":
        if train_on_turns == "last" and not mask_inputs:
            raise UserError("train_on_turns: last trains one turn, mask_inputs: false all of the text. Choose one.")
        template = ChatTemplate(tokenizer, chat_template, day=template_date, variables=chat_template_kwargs)
        return ChatFormat(template, columns, mask_inputs, train_on_turns, on_dropped_text)
    special = SpecialTokens(tokenizer)
    if name == "alpaca":
        return AlpacaFormat(
            read_prompts(prompts), special, columns, mask_inputs, train_on_turns, end=str(tokenizer.eos_token or "")
        )
    if name == "prompt_completion":
        return PromptCompletionFormat(special, columns, mask_inputs)
    return TextFormat(special, columns)


@dataclass(frozen=True)
class AlpacaFormat:
    """An instruction, perhaps with an input, and the output that follows the prompt at once.

    Earlier turns (`history`, LLaMA-Factory's) are put into the same prompts, one after the other, each answer with its
    EOS; a system text stands before the first prompt, with an empty line between:

        {system}\\n\\n{prompt of history[0][0]}{history[0][1]}</s>{prompt of instruction and input}{output}</s>
    """

    prompts: Prompts
    special: SpecialTokens
    columns: Columns = field(default_factory=dict)
    mask_inputs: bool = True
    turns: Literal["all", "last"] = "all"
    """Whether the answers of earlier turns are trained as well; LLaMA-Factory trains them unless `mask_history`."""
    end: str = ""
    """What ends the answer of an earlier turn: EOS. That of the last one is the tokenizer's to add."""
    name: str = "alpaca"

    def example(self, row: Row) -> TextExample:
        """The prompts with instructions and input, each followed by its answer, which is trained."""
        problems = _foreign(row, self.name, self.columns)
        instruction, text, output, system = _texts(
            row,
            self.columns,
            (("instruction", "full"), ("input", "optional"), ("output", "answer"), ("system", "optional")),
            problems,
        )
        pieces = _Pieces()
        if system.strip():
            pieces.add((system, True), (f"{SYSTEM_END}", False))
        history = history_of(row, self.columns, answers="answer" if self.turns == "all" else "any")
        for asked, answered in history:
            pieces.add(*self.prompts.pieces(asked))
            pieces.add((answered, True), (self.end, False), trained=self.turns == "all")
        pieces.add(*self.prompts.pieces(instruction, text))
        pieces.add((output, True), trained=True)
        example = pieces.example(row, self.special, mask_inputs=self.mask_inputs)
        return replace(example, system=system if system.strip() else "", has_history=bool(history))

    def unread(self, row: Row) -> Sequence[str]:
        """The columns that nothing reads."""
        return unread_columns(row, columns_read(self.name, self.columns))

    def describe(self, has: Collection[str] = ()) -> str:
        """`alpaca: instruction, input, output`."""
        given = () if has and "input" not in has else ("input",)
        more = [name for name in ("system", "history") if name in has]
        return _described(self.name, ("instruction", *given, "output", *more), self.columns)


@dataclass(frozen=True)
class PromptCompletionFormat:
    """A prompt, which may be empty, and the completion that follows it as it is, without a space between."""

    special: SpecialTokens
    columns: Columns = field(default_factory=dict)
    mask_inputs: bool = True
    name: str = "prompt_completion"

    def example(self, row: Row) -> TextExample:
        """Prompt and completion; the completion is trained."""
        wanted: Sequence[tuple[str, Kind]] = (("prompt", "any"), ("completion", "answer"))
        prompt, completion = _texts(row, self.columns, wanted, _foreign(row, self.name, self.columns))
        pieces = _Pieces()
        pieces.add((prompt, True))
        pieces.add((completion, True), trained=True)
        return pieces.example(row, self.special, mask_inputs=self.mask_inputs)

    def unread(self, row: Row) -> Sequence[str]:
        """The columns that nothing reads."""
        return unread_columns(row, columns_read(self.name, self.columns))

    def describe(self, has: Collection[str] = ()) -> str:
        """`prompt_completion: prompt, completion`."""
        return _described(self.name, ("prompt", "completion"), self.columns)


@dataclass(frozen=True)
class TextFormat:
    """Text, all of which is trained."""

    special: SpecialTokens
    columns: Columns = field(default_factory=dict)
    name: str = "text"

    def example(self, row: Row) -> TextExample:
        """The text."""
        (text,) = _texts(row, self.columns, (("text", "answer"),), ())
        pieces = _Pieces()
        pieces.add((text, True), trained=True)
        return pieces.example(row, self.special, mask_inputs=True)

    def unread(self, row: Row) -> Sequence[str]:
        """The columns that nothing reads."""
        return unread_columns(row, columns_read(self.name, self.columns))

    def describe(self, has: Collection[str] = ()) -> str:
        """`text: text`."""
        return _described(self.name, ("text",), self.columns)


@dataclass(frozen=True)
class ChatFormat:
    """A conversation, written by a chat template; the assistant's turns are trained, each up to the token that ends
    it."""

    template: ChatTemplate
    columns: Columns = field(default_factory=dict)
    mask_inputs: bool = True
    turns: Literal["all", "last"] = "all"
    on_dropped_text: Literal["error", "warn"] = "error"
    name: str = "chat"

    def example(self, row: Row) -> TextExample:
        """The text of the conversation, as `apply_chat_template` has it."""
        if problems := _foreign(row, self.name, self.columns):
            raise RowError(row.where, *problems)
        template = self._template_of(row)
        messages, tools = template.fitted(*conversation_of(row, self.columns))
        rendering = template.rendering(messages, tools, turns=self.turns, where=row.where)
        left_out = template.left_out(messages, tools, rendering)
        if left_out and self.on_dropped_text == "error":
            more = len(left_out) - SHOWN_TEXTS
            raise DroppedTextError(
                row.where,
                *((each.name, each.what) for each in left_out[:SHOWN_TEXTS]),
                *([(f"and {more} more texts", "are left out, too.")] if more > 0 else []),
            )
        text = rendering.text
        return TextExample(
            row.file,
            row.number,
            text,
            rendering.trained if self.mask_inputs else ((0, len(text)),),
            has_special_tokens=True,
            special_tokens=template.special_tokens_of_row(messages, tools, text, row.where),
            left_out=tuple(f"{each.name} {each.what}" for each in left_out[:SHOWN_TEXTS]),
            system=system_turn(messages),
            chat_template_kwargs=json.dumps(template.variables, sort_keys=True, ensure_ascii=False),
        )

    def _template_of(self, row: Row) -> ChatTemplate:
        variables = variables_of(row, self.columns)
        return self.template.given(variables, row.where) if variables else self.template

    def unread(self, row: Row) -> Sequence[str]:
        """The columns that nothing reads, and the keys of messages, as `messages[].source`."""
        held = messages_columns(row, self.columns)
        keys = [(column, key) for column in held for key in keys_of(row, column)]
        unread = [(column, key) for column, key in keys if not self.template.reads(key)]
        if len(unread) < len(keys):  # of the others the template speaks, but perhaps not in such messages
            template = self._template_of(row)
            messages, tools = template.fitted(*conversation_of(row, self.columns))
            unread = [(column, key) for column, key in keys if not template.reads_of(key, messages, tools)]
        return [
            *unread_columns(row, {*held, *columns_of(BESIDE_MESSAGES, self.columns)}),
            *(f"{column}[].{key}" for column, key in unread),
        ]

    def describe(self, has: Collection[str] = ()) -> str:
        """`chat: messages, tools; every turn of the assistant is trained`."""
        if not {"prompt", "completion"}.isdisjoint(self.columns) or (
            {"prompt", "completion"} <= set(has) and {"messages", "conversations"}.isdisjoint(has)
        ):
            named: tuple[str, ...] = ("prompt", "completion")
        else:
            by_from = "conversations" in self.columns or ("conversations" in has and "messages" not in has)
            named = ("conversations",) if by_from else ("messages",)
        more = [name for name in ("system", "functions", "tools") if name in has or (name == "tools" and not has)]
        which = "every turn" if self.turns == "all" else "the last turn"
        of = " of the completion" if len(named) > 1 else ""
        what = f"{which} of the assistant{of} is trained" if self.mask_inputs else "all of the text is trained"
        return f"{_described(self.name, (*named, *more), self.columns)}; {what}"


Kind = Literal["answer", "full", "any", "optional"]
"""Of a text: must say something, and is what is trained; must say something; may be empty; may be empty, null or
absent."""


def _texts(
    row: Row, columns: Columns, wanted: Sequence[tuple[str, Kind]], others: Sequence[tuple[str, str]]
) -> list[str]:
    """The texts of a row, in the order wanted.

    Args:
        others: what else is wrong with the row.

    Raises:
        EmptyAnswerError: when that is all that is wrong with it.
        RowError: naming all that is wrong with it.
    """
    problems: list[tuple[str, str]] = []
    empty_answers = 0
    found: list[str] = []
    for name, kind in wanted:
        column = column_of(name, columns)
        value = None if column is None else row.fields.get(column)
        found.append(value if isinstance(value, str) else "")
        if column is None and kind == "optional":
            continue
        column = column or name
        if value is None and kind == "answer" and column in row.fields:  # a table has null for what is empty
            problems.append((column, f"is empty, found {shown(value)}."))
            empty_answers += 1
        elif not isinstance(value, str):
            if column not in row.fields and kind != "optional":
                problems.append((column, f"is missing; {has(row)}."))
            elif kind != "optional" or value is not None:
                problems.append((column, f"must be text, found {shown(value)}."))
        elif kind in ("answer", "full") and not value.strip():
            problems.append((column, f"is empty, found {shown(value)}."))
            empty_answers += kind == "answer"
        elif not is_unicode(value):
            problems.append((column, f"holds half a surrogate pair, which is no character: {shown(value)}."))
    problems += others
    if problems:
        raise (EmptyAnswerError if len(problems) == empty_answers else RowError)(row.where, *problems)
    return found


def _foreign(row: Row, name: str, columns: Columns) -> list[tuple[str, str]]:
    return list(foreign_problems(row, columns, name))


class _Pieces:
    """A text as it is put together: which parts are the row's own, and which are trained."""

    def __init__(self) -> None:
        self._pieces: list[tuple[str, bool]] = []
        self._trained: list[tuple[int, int]] = []
        self._length = 0

    def add(self, *pieces: tuple[str, bool], trained: bool = False) -> None:
        """Appends (text, whether it is the row's own rather than the template's)."""
        start = self._length
        self._length += sum(len(text) for text, _ in pieces)
        self._pieces += pieces
        if trained:
            self._trained.append((start, self._length))

    def example(self, row: Row, special: SpecialTokens, *, mask_inputs: bool) -> TextExample:
        text = "".join(text for text, _ in self._pieces)
        trained = tuple(self._trained) if mask_inputs else ((0, len(text)),)
        return TextExample(row.file, row.number, text, trained, special_tokens=special.in_row_text(self._pieces))


def _described(name: str, fields: Sequence[str], columns: Mapping[str, str]) -> str:
    named = (f"{ours}={columns[ours]}" if columns.get(ours, ours) != ours else ours for ours in fields)
    return f"{name}: {', '.join(named)}"
