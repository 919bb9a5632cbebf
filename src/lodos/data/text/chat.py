"""The text of a conversation, and which of its characters the assistant has to say.

A chat template turns messages into one text; what it wrote for which message it does not tell. But it can be asked
again with fewer messages. For the assistant's turn i

    before  = the messages up to turn i, with the generation prompt: what the model is given when it is to answer
    after   = the messages up to and with turn i

    before:  <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n
    after:   <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello!<|im_end|>\\n
    whole:   <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello!<|im_end|>\\n<|im_start|>user\\nBye ...
    trained:                                                          ^^^^^^^^^^^^^^^^

and what `after` has beyond `before` is what the model would have to say there, up to the end of its turn. This holds
if `before` begins `after` and `after` begins the whole text. Both are checked for each turn. Templates that rewrite
earlier turns (Qwen3 takes the thinking out of all but the last) fail the check, and the row is refused with the text
that differs: the model would be trained on words that it never meets, or after words that it never sees. With
`turns="last"` such rows can be trained, since nothing follows the last turn.

White space after the token that ends a turn is left out: whoever generates stops at that token.

`{% generation %}` tags, where a template has them, narrow this to what their author marked (thinking may be left out).
They never reach outside the turn (SmolLM3's include the header, which the generation prompt gives), and the token that
ends the turn is trained though many leave it out, since without it the model would never stop.

What a template leaves out of a row is found by `written.py`, the forms in which it takes one by `template_forms.py`.

Knows nothing of tokens but which texts are special.
"""

import copy
import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lodos.data.reading.rows import EmptyAnswerError, RowError, is_unicode
from lodos.data.text.messages import is_blank
from lodos.data.text.turn_weights import weight_of, without_weights
from lodos.data.text.written import LeftOut, left_out
from lodos.errors import UserError
from lodos.places.objects import read_text
from lodos.places.place import place_of
from lodos.prompting.special_tokens import Span, SpecialTokens
from lodos.prompting.template_date import dated
from lodos.prompting.template_forms import TemplateForms
from lodos.prompting.template_text import (
    TemplateBoundsError,
    TemplateError,
    TemplateSyntaxError,
    generation_spans,
    template_text,
)
from lodos.prompting.template_variables import asked_by, variable_problems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]

_GENERATION_TAG = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_TAG = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")
_SHOWN = 40


@dataclass(frozen=True)
class Rendering:
    """What a template makes of a conversation."""

    text: str
    turns: Mapping[int, Span]
    """By message, the characters `[start, end)` of each turn that is trained."""
    trained: tuple[Span, ...]
    """The characters that are trained: the turns, or what is tagged of them."""


class ChatTemplate:
    """A tokenizer's chat template, or another one in its place. Can be pickled.

    Args:
        template: a Jinja file, or the template itself (any text with `{{` or `{%`); None for the tokenizer's own.
        day: that the template writes as today's; by default the day on which it is rendered.
        variables: that it is given beside a conversation (`chat_template_kwargs`).

    Raises:
        UserError: when there is no template, the file cannot be read, it is not Jinja, or it does not ask for a
            variable that it is given.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: str | None = None,
        *,
        day: datetime.date | str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self.special = SpecialTokens(tokenizer)
        self._given = read_template(template)
        self._day = day
        self.variables: Mapping[str, Any] = dict(variables or {})
        """What it is given beside a conversation."""
        self._given_more: dict[str, ChatTemplate] = {}
        self._sources: dict[bool, str] = {}
        self._reads: dict[str, bool] = {}
        if self._given is None and not tokenizer.chat_template:
            raise UserError(
                "chat_template: the tokenizer has none, and chat rows cannot be written without. Give a Jinja file or "
                "the template itself, or use an instruction-tuned model's tokenizer."
            )
        self._check_syntax()
        if problems := self._unread(self.variables):
            raise UserError("\n".join(f"chat_template_kwargs: {problem}" for problem in problems))
        self._forms = TemplateForms(self.render)

    def given(self, variables: Mapping[str, Any], where: str = "") -> "ChatTemplate":
        """The template that is given these variables as well, which a row may bring.

        Raises:
            RowError: for one that it cannot be given, or does not ask for.
        """
        if problems := [*variable_problems(variables), *self._unread(variables)]:
            raise RowError(where, *(("chat_template_kwargs", problem) for problem in problems))
        key = json.dumps(variables, sort_keys=True)
        if key not in self._given_more:
            template = copy.copy(self)
            template.variables = {**self.variables, **variables}
            template._given_more, template._forms = {}, TemplateForms(template.render)
            self._given_more[key] = template
        return self._given_more[key]

    def _unread(self, variables: Mapping[str, Any]) -> list[str]:
        return [
            f"{name}: the chat template asks for no such variable, so it would change nothing. Give a chat_template "
            "that does, or leave it out."
            for name in variables
            if not any(asked_by(self._source(has_tools), name) for has_tools in (False, True))
        ]

    def reads(self, key: str) -> bool:
        """Whether the template asks for that key of a message, as far as its text shows."""
        if key not in self._reads:
            self._reads[key] = any(asked_by(self._source(has_tools), key) for has_tools in (False, True))
        return self._reads[key]

    def reads_of(self, key: str, messages: Messages, tools: Tools | None) -> bool:
        """Whether these messages are written otherwise without that key."""
        if not self.reads(key):
            return False
        without = [{name: value for name, value in message.items() if name != key} for message in messages]
        try:
            return self.render(without, tools) != self.render(messages, tools)
        except RowError:  # it does not do without
            return True

    def fitted(self, messages: Messages, tools: Tools | None = None) -> tuple[Messages, Tools | None]:
        """Messages and tools of a row in the forms that the template takes."""
        return self._forms.fitted(messages), self._forms.fitted_tools(tools)

    def render(
        self, messages: Messages, tools: Tools | None = None, *, generation_prompt: bool = False, where: str = ""
    ) -> str:
        """The text of a conversation, as `tokenizer.apply_chat_template(tokenize=False)` has it.

        Raises:
            RowError: when the template refuses it.
        """
        try:
            return template_text(
                self._tokenizer,
                without_weights(messages),
                template=self._source(bool(tools)),
                tools=tools,
                variables=self.variables,
                add_generation_prompt=generation_prompt,
            )
        except TemplateError as error:
            raise _refused(error, where) from None

    def rendering(
        self,
        messages: Messages,
        tools: Tools | None = None,
        *,
        turns: Literal["all", "last"] = "all",
        where: str = "",
    ) -> Rendering:
        """The text of a conversation, and what of it the assistant says and is trained.

        Args:
            turns: of the assistant; of these, those that their own weight leaves out are not trained.

        Raises:
            RowError: when no turn, or a blank one, is the assistant's, or when the template does not let it be told
                which characters are.
        """
        of_assistant = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not of_assistant:
            raise RowError(where, ("messages", "have no turn of the assistant, so there is nothing to train."))
        last = of_assistant if turns == "all" else of_assistant[-1:]
        chosen = [i for i in last if weight_of(messages[i])[0] is not False]
        if not chosen:
            which = "every turn" if turns == "all" else "the last turn"
            raise RowError(where, ("messages", f"have nothing to train: {which} of the assistant is weighted 0."))
        for i in chosen:
            if is_blank(messages[i]):
                raise EmptyAnswerError(where, (f"messages[{i}]", "is the assistant's and empty."))
        whole = self.render(messages, tools, where=where)
        if not is_unicode(whole):
            raise RowError(where, ("messages", "hold half a surrogate pair, which is no character."))
        found = {i: self._turn(messages, tools, i, whole, where) for i in chosen}
        tagged = self._tagged(messages, tools, where)
        spans = tuple(span for turn in found.values() for span in self._narrowed(whole, turn, tagged))
        if not spans:
            raise RowError(where, ("messages", "have no trained text: the template's {% generation %} marks none."))
        return Rendering(whole, found, spans)

    def left_out(self, messages: Messages, tools: Tools | None, rendering: Rendering) -> list[LeftOut]:
        """What the template does not write of what messages and tools say, given what it wrote of them."""
        return left_out(
            self.render,
            messages,
            tools,
            rendering.text,
            tags=self._tags,
            turns=rendering.turns,
            optional={i for i, _ in enumerate(messages)} - rendering.turns.keys(),
        )

    def special_tokens_of_row(
        self, messages: Messages, tools: Tools | None, whole: str, where: str = ""
    ) -> tuple[Span, ...]:
        """Where in `whole` the messages themselves, rather than the template, spell special tokens.

        Raises:
            RowError: when the template changes such a text, so that its place cannot be told.
        """
        found = self.special.in_messages(
            lambda messages, tools: self.render(messages, tools, where=where), messages, tools, whole
        )
        if isinstance(found, list):
            names = ", ".join(found)
            raise RowError(
                where,
                ("messages", f"spell special tokens ({names}) that the chat template treats in a way of its own."),
            )
        return found

    def _turn(self, messages: Messages, tools: Tools | None, i: int, whole: str, where: str) -> Span:
        """The characters of `whole` that are turn i, checked; up to the token that ends it."""
        if i == 0:
            raise RowError(
                where,
                (
                    "messages[0]",
                    "is the assistant's: it answers nothing. Begin with a user or system turn, or weight it 0.",
                ),
            )
        before = self.render(messages[:i], tools, generation_prompt=True, where=where)
        after = whole if i == len(messages) - 1 else self.render(messages[: i + 1], tools, where=where)
        name = f"messages[{i}]"
        if not whole.startswith(after):
            raise RowError(
                where,
                (
                    name,
                    f"is rewritten by the chat template when more turns follow: {_difference(after, whole)} "
                    "Set train_on_turns to last, or give a chat_template that leaves earlier turns as they are.",
                ),
            )
        if not after.startswith(before):
            raise RowError(
                where,
                (
                    name,
                    "does not go on from what the chat template gives the model to answer: "
                    f"{_difference(before, after)} Give a chat_template whose generation prompt begins the turn.",
                ),
            )
        start, end = len(before), len(after)
        said = after[start:].rstrip()
        if self.special.end(said):
            end = start + len(said)
        if not self.special.pattern.sub("", said).strip():
            raise RowError(where, (name, "is left out by the chat template, or all that it says."))
        return start, end

    def _tagged(self, messages: Messages, tools: Tools | None, where: str) -> list[Span] | None:
        """What the template's `{% generation %}` tags mark; None without tags."""
        source = self._source(bool(tools))
        if not _GENERATION_TAG.search(source):
            return None
        try:
            return generation_spans(
                self._tokenizer,
                without_weights(messages),
                template=source,
                tools=tools,
                variables=self.variables,
            )
        except TemplateError as error:
            raise _refused(error, where) from None

    def _narrowed(self, whole: str, turn: Span, tagged: list[Span] | None) -> list[Span]:
        """The parts of a turn that are trained: all of it, or what is tagged, and the token that ends it."""
        if tagged is None:
            return [turn]
        start, end = turn
        # A tag may take in the white space after the turn's end; then so do we.
        rest = len(whole) - len(whole[end:].lstrip())
        parts = [(max(a, start), min(b, rest)) for a, b in tagged if max(a, start) < min(b, end)]
        if parts and parts[-1][1] < end:
            a, b = parts[-1]
            untagged = whole[b:end].lstrip()
            if untagged in self.special.tokens:
                first = end - len(untagged)
                parts = [*parts[:-1], (a, end)] if first == b else [*parts, (first, end)]
        return parts

    def _check_syntax(self) -> None:
        try:
            template_text(self._tokenizer, [{"role": "user", "content": "?"}], template=self._source(False))
        except TemplateSyntaxError as error:
            raise UserError(f"chat_template: not valid Jinja, line {error.line}: {_said(error)}.") from None
        except TemplateBoundsError as error:
            raise UserError(f"chat_template: {error}. Give another one.") from None
        except TemplateError:  # it may well refuse such a conversation; rows tell
            return

    def _source(self, has_tools: bool) -> str:
        """The template that writes such conversations: a tokenizer may have one for tools beside the other."""
        if has_tools not in self._sources:
            source = self._tokenizer.get_chat_template(self._given, tools=[{}] if has_tools else None)
            self._sources[has_tools] = source if self._day is None else dated(source, self._day)
        return self._sources[has_tools]

    @functools.cached_property
    def _tags(self) -> re.Pattern[str]:
        """The tags at which the template may cut a text: those that it has in its own, and those of thinking."""
        found = {"<think>", "</think>"}.union(*(_TAG.findall(self._source(has_tools)) for has_tools in (False, True)))
        return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))))


def _refused(error: TemplateError, where: str) -> RowError:
    how = "cannot be written by" if isinstance(error, TemplateBoundsError) else "are refused by"
    return RowError(where, ("messages", f"{how} the chat template: {_said(error)}."))


def read_template(template: str | None) -> str | None:
    """The text of a template given as a Jinja file or as itself; None for None.

    Raises:
        UserError: for a file that is not there or cannot be read.
    """
    if template is None or "{{" in template or "{%" in template:
        return template
    try:
        return read_text(place_of(template))
    except FileNotFoundError:
        raise UserError(
            f"chat_template: {template}: there is no such file. A template itself has {{{{ or {{% in it."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"chat_template: {template}: the file cannot be read: {error}.") from None


def _said(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text or type(error).__name__


def _difference(first: str, second: str) -> str:
    """Where two texts part: `after '...assistant\\n' there is 'A' alone and 'B' in the whole.`"""
    place = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    before = first[max(place - _SHOWN, 0) : place]
    return f"after {before!r} it has {_cut(first[place:])}, then {_cut(second[place:])}."


def _cut(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else repr(text[:_SHOWN] + " ...")
