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

Knows nothing of tokens but which texts are special.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lodos.data.reading.rows import EmptyAnswerError, RowError, is_unicode
from lodos.data.text.messages import is_blank
from lodos.data.text.special_tokens import Span, SpecialTokens
from lodos.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]

# Put around special tokens to find them in the rendering: noncharacters, which no text is to hold.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")
_GENERATION_TAG = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_SHOWN = 40


class ChatTemplate:
    """A tokenizer's chat template, or another one in its place. Can be pickled.

    Args:
        template: a Jinja file, or the template itself (any text with `{{` or `{%`); None for the tokenizer's own.

    Raises:
        UserError: when there is no template, the file cannot be read, or it is not Jinja.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self.special = SpecialTokens(tokenizer)
        self._source = read_template(template)
        if self._source is None and not tokenizer.chat_template:
            raise UserError(
                "chat_template: the tokenizer has none, and chat rows cannot be written without. Give a Jinja file or "
                "the template itself, or use an instruction-tuned model's tokenizer."
            )
        self._check_syntax()

    def render(
        self, messages: Messages, tools: Tools | None = None, *, generation_prompt: bool = False, where: str = ""
    ) -> str:
        """The text of a conversation, as `tokenizer.apply_chat_template(tokenize=False)` has it.

        Raises:
            RowError: when the template refuses it.
        """
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=None if tools is None else [dict(tool) for tool in tools],
                    chat_template=self._source,
                    add_generation_prompt=generation_prompt,
                    tokenize=False,
                )
            )
        except Exception as error:  # a template is a program, and may fail on a row in any way
            raise RowError(where, ("messages", f"are refused by the chat template: {_said(error)}.")) from None

    def trained_spans(
        self,
        messages: Messages,
        tools: Tools | None = None,
        *,
        turns: Literal["all", "last"] = "all",
        where: str = "",
    ) -> tuple[str, tuple[Span, ...]]:
        """The text of a conversation and the characters `[start, end)` of it that the assistant says.

        Raises:
            RowError: when no turn, or a blank one, is the assistant's, or when the template does not let it be told
                which characters are.
        """
        of_assistant = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not of_assistant:
            raise RowError(where, ("messages", "have no turn of the assistant, so there is nothing to train."))
        chosen = of_assistant if turns == "all" else of_assistant[-1:]
        for i in chosen:
            if is_blank(messages[i]):
                raise EmptyAnswerError(where, (f"messages[{i}]", "is the assistant's and empty."))
        whole = self.render(messages, tools, where=where)
        if not is_unicode(whole):
            raise RowError(where, ("messages", "hold half a surrogate pair, which is no character."))
        _check_written(tools, whole, where, "tools")
        found = [self._turn(messages, tools, i, whole, where) for i in chosen]
        tagged = self._tagged(messages, tools, where)
        spans = tuple(span for turn in found for span in self._narrowed(whole, turn, tagged))
        if not spans:
            raise RowError(where, ("messages", "have no trained text: the template's {% generation %} marks none."))
        return whole, spans

    def special_tokens_of_row(
        self, messages: Messages, tools: Tools | None, whole: str, where: str = ""
    ) -> tuple[Span, ...]:
        """Where in `whole` the messages themselves, rather than the template, spell special tokens.

        Raises:
            RowError: when the template changes such a text, so that its place cannot be told.
        """
        found: set[str] = set()
        marked_messages, marked_tools = self._marked(messages, found), self._marked(tools, found)
        if not found:
            return ()
        marked = self.render(marked_messages, marked_tools, where=where)
        # The k-th match stands 2k marks further than in the text without marks.
        spans = [(m.start() - 2 * k, m.end() - 2 * k - 2) for k, m in enumerate(_MARKED.finditer(marked))]
        if _MARKED.sub(r"\1", marked) != whole:
            names = ", ".join(sorted(found))
            raise RowError(
                where,
                ("messages", f"spell special tokens ({names}) that the chat template treats in a way of its own."),
            )
        return tuple(spans)

    def _marked(self, value: Any, found: set[str]) -> Any:
        """`value` with marks around every special token in its texts (not in its keys or roles)."""
        if isinstance(value, str):

            def mark(match: re.Match[str]) -> str:
                found.add(match[0])
                return f"{_OPEN}{match[0]}{_CLOSE}"

            return self.special.pattern.sub(mark, value)
        if isinstance(value, Mapping):
            return {key: self._marked(item, found) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked(item, found) for item in value]
        return value

    def _turn(self, messages: Messages, tools: Tools | None, i: int, whole: str, where: str) -> Span:
        """The characters of `whole` that are turn i, checked; up to the token that ends it."""
        if i == 0:
            raise RowError(
                where,
                ("messages[0]", "is the assistant's: it answers nothing. Begin with a user or system turn."),
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
        _check_written(messages[i].get("tool_calls"), said, where, f"{name}.tool_calls")
        return start, end

    def _tagged(self, messages: Messages, tools: Tools | None, where: str) -> list[Span] | None:
        """What the template's `{% generation %}` tags mark; None without tags."""
        source = self._tokenizer.get_chat_template(
            self._source, tools=None if tools is None else list(map(dict, tools))
        )
        if not _GENERATION_TAG.search(source):
            return None
        from transformers.utils.chat_template_utils import render_jinja_template

        conversation = [{key: value for key, value in message.items() if value is not None} for message in messages]
        variables: dict[str, Any] = dict(self._tokenizer.special_tokens_map)
        try:
            _, spans = render_jinja_template(
                [conversation],
                tools=None if tools is None else [dict(tool) for tool in tools],
                chat_template=source,
                return_assistant_tokens_mask=True,
                **variables,
            )
        except Exception as error:
            raise RowError(where, ("messages", f"are refused by the chat template: {_said(error)}.")) from None
        marked: Any = spans
        return marked[0]

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
        from jinja2 import TemplateSyntaxError

        try:
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": "?"}], chat_template=self._source, tokenize=False
            )
        except TemplateSyntaxError as error:
            raise UserError(f"chat_template: not valid Jinja, line {error.lineno}: {_said(error)}.") from None
        except Exception:  # it may well refuse such a conversation; rows tell
            return


def _check_written(tools: Any, text: str, where: str, field: str) -> None:
    """That a template wrote the tools or tool calls which it was given; one that knows none leaves them out."""
    for tool in tools or []:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str) and name not in text:
            raise RowError(
                where, (field, f"have {name!r}, which the chat template does not write. It may know no tools.")
            )


def read_template(template: str | None) -> str | None:
    """The text of a template given as a Jinja file or as itself; None for None.

    Raises:
        UserError: for a file that is not there or cannot be read.
    """
    if template is None or "{{" in template or "{%" in template:
        return template
    if "://" in template:
        raise UserError(
            f"chat_template: {template}: a remote file cannot be read. Download it and give the local file."
        )
    try:
        return Path(template).expanduser().read_text(encoding="utf-8-sig")
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
