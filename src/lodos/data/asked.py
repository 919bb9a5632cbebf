"""How rows were written, as far as whoever asks the model afterwards has to know: the facts behind `Prompting`.

They are looked up in what is trained, never guessed from names: which tokens end trained text, whether BOS came first,
which system turn every conversation had. Like a report they are a sum over chunks and files.
"""

import dataclasses
import datetime
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lodos.data.config import DataArgs
from lodos.data.examples import TextExample, TokenizedExample
from lodos.data.text.chat import read_template
from lodos.prompting.description import EndToken, Prompting
from lodos.prompting.prompts import read_prompts
from lodos.prompting.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass
class AskedRows:
    """Of the rows kept."""

    formats: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many were written in each format; what a chat template wrote is a chat, whatever the row was."""
    ends: dict[str, int] = dataclasses.field(default_factory=dict)
    """In how many a token ends trained text, by its text."""
    systems: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Of each format the first two unlike system turns; "" is none."""
    variables: list[str] = dataclasses.field(default_factory=list)
    """The first two unlike sets of variables that the chat template was given, as JSON."""
    with_history: int = 0
    """How many instructions have turns before them."""
    with_bos: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many of each format begin with BOS."""
    begins: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    """Of each format, in how many the last answer begins with which character."""

    def extend(self, later: "AskedRows") -> None:
        """Adds the rows of a later part."""
        for name in ("formats", "ends", "with_bos"):
            setattr(self, name, dict(Counter(getattr(self, name)) + Counter(getattr(later, name))))
        for name, systems in later.systems.items():
            self.systems[name] = list(dict.fromkeys([*self.systems.get(name, []), *systems]))[:2]
        for name, begins in later.begins.items():
            self.begins[name] = dict(Counter(self.begins.get(name, {})) + Counter(begins))
        self.variables = list(dict.fromkeys([*self.variables, *later.variables]))[:2]
        self.with_history += later.with_history


@dataclasses.dataclass(frozen=True)
class AskedRowsCounter:
    """Counts rows. Can be pickled."""

    format: str
    special: SpecialTokens
    ids: Mapping[str, int]
    """Of the special tokens and EOS."""
    bos: int | None
    eos: str | None

    @classmethod
    def of(cls, format_name: str, tokenizer: "PreTrainedTokenizerBase") -> "AskedRowsCounter":
        special = SpecialTokens(tokenizer)
        eos = None if tokenizer.eos_token is None else str(tokenizer.eos_token)
        tokens = [*special.tokens, *([eos] if eos else [])]
        ids: Any = tokenizer.convert_tokens_to_ids(tokens)
        bos = tokenizer.bos_token_id
        return cls(
            format_name, special, dict(zip(tokens, ids, strict=True)), bos if isinstance(bos, int) else None, eos
        )

    def add(self, rows: AskedRows, text: TextExample, example: TokenizedExample) -> None:
        """Counts a row that is kept."""
        name = "chat" if text.has_special_tokens else self.format
        rows.formats[name] = rows.formats.get(name, 0) + 1
        if self.bos is not None and example.ids[0] == self.bos:
            rows.with_bos[name] = rows.with_bos.get(name, 0) + 1
        systems = rows.systems.setdefault(name, [])
        if len(systems) < 2 and text.system not in systems:
            systems.append(text.system)
        if name == "chat" and len(rows.variables) < 2 and text.chat_template_kwargs not in rows.variables:
            rows.variables.append(text.chat_template_kwargs)
        rows.with_history += text.has_history
        if (begin := _begin(text)) is not None:
            begins = rows.begins.setdefault(name, {})
            begins[begin] = begins.get(begin, 0) + 1
        for token in self._ends(text, example):
            rows.ends[token] = rows.ends.get(token, 0) + 1

    def _ends(self, text: TextExample, example: TokenizedExample) -> set[str]:
        """The tokens that end trained text, of those that are trained in fact: a row may have been cut."""
        if text.has_special_tokens:
            said = (text.text[start:end].rstrip() for start, end in text.trained)
            found = {token for token in map(self.special.last, said) if token is not None}
        else:
            found = set() if self.eos is None else {self.eos}
        return {token for token in found if (example.trained & (example.ids == self.ids[token])).any()}


def _begin(text: TextExample) -> str | None:
    """What the last answer begins with; None where the text is trained from its beginning, as one without a prompt."""
    start = text.trained[-1][0] if text.trained else 0
    character = text.text[start : start + 1]
    return character if start and character else None


def prompting_of(
    parts: Iterable[AskedRows], args: DataArgs, tokenizer: "PreTrainedTokenizerBase", *, day: str | None
) -> Prompting:
    """How a model has to be asked that was trained on these rows. Of several formats the most frequent comes first.

    Args:
        day: that the chat template wrote as today's, as YYYY-MM-DD; None where it wrote none.
    """
    rows = AskedRows()
    for part in parts:
        rows.extend(part)
    formats = tuple(sorted(rows.formats, key=lambda name: -rows.formats[name]))
    is_chat = "chat" in formats
    given = args.chat_template_kwargs or {}
    template = read_template(args.chat_template) or tokenizer.chat_template
    systems = rows.systems[formats[0]]
    begins = rows.begins.get(formats[0], {})
    ids: Any = tokenizer.convert_tokens_to_ids(list(rows.ends))
    return Prompting(
        format=formats[0],
        formats=formats,
        prompts=read_prompts(args.prompts) if "alpaca" in formats else None,
        chat_template=template if is_chat and isinstance(template, str) else None,
        system=(systems[0] or None) if len(systems) == 1 else None,
        history=rows.with_history > 0,
        # Rows that were given different ones leave open which of theirs is meant.
        chat_template_kwargs=json.loads(rows.variables[0]) if len(rows.variables) == 1 else given if is_chat else {},
        date=datetime.date.fromisoformat(day) if is_chat and day is not None else None,
        special_tokens_as_text=args.special_tokens_as_text,
        bos=rows.with_bos.get(formats[0], 0) > 0,
        end_tokens=tuple(EndToken(token_id, text) for token_id, text in sorted(zip(ids, rows.ends, strict=True))),
        answers_begin=max(begins, key=lambda character: begins[character], default="a"),
    )
