"""How the prompts of a training were made: one small file beside what was trained, read by everything that asks it.

    prompting.json        format, prompts, system turn, variables of the template, date, BOS, how special tokens in a
                          prompt's own text are read, the tokens that end an answer
    chat_template.jinja   the chat template, where rows were written by one

Both stand in every adapter and every merged model that a training leaves. The file is read strictly: what this version
does not know is an error that names it, since a model asked otherwise than it was trained answers worse, and nobody
sees why.
"""

import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lodos.errors import UserError
from lodos.files import write_json
from lodos.json_files import read_json
from lodos.prompting.prompts import Prompts, read_prompts
from lodos.prompting.template_variables import variable_problems
from lodos.version import __version__

FILE = "prompting.json"
TEMPLATE_FILE = "chat_template.jinja"
VERSION = 2
"""Of the file's fields and what they mean."""
_ADDED: Mapping[int, Mapping[str, Any]] = {2: {"chat_template_kwargs": {}, "special_tokens_as_text": False}}
"""What a version added, with what it is of a training before it."""

FORMATS = ("alpaca", "prompt_completion", "chat", "text")
"""As rows were written: an instruction in prompts, plain text that is continued, or a conversation."""


@dataclasses.dataclass(frozen=True)
class EndToken:
    """A token that ends an answer."""

    id: int
    text: str


@dataclasses.dataclass(frozen=True)
class Prompting:
    """How a model has to be asked."""

    format: str
    """One of `FORMATS`: how it is asked unless another is chosen."""
    formats: tuple[str, ...] = ()
    """All formats that were trained, the most frequent first; `format` alone by default."""
    prompts: Prompts | None = None
    """Of an instruction; None where none was trained."""
    chat_template: str | None = None
    """Of conversations, as Jinja; None where none was trained, or for the tokenizer's own."""
    system: str | None = None
    """The system turn that every row of `format` began with."""
    history: bool = False
    """Whether instructions were trained with earlier turns before them."""
    chat_template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Variables that the chat template was given."""
    date: datetime.date | None = None
    """What the chat template wrote as today's date."""
    bos: bool | None = None
    """Whether BOS was the first token; None if nobody looked."""
    special_tokens_as_text: bool = False
    """Whether special tokens in a prompt's own text are plain characters rather than control tokens."""
    end_tokens: tuple[EndToken, ...] = ()
    """Those that ended trained text."""
    answers_begin: str = "a"
    """The character that most answers began with, after which white space at the end of a prompt is tokenized."""
    lodos_version: str = __version__

    @property
    def is_chat(self) -> bool:
        return self.format == "chat"

    @property
    def has_turns(self) -> bool:
        """Whether earlier turns can stand before what is asked."""
        return self.is_chat or (self.format == "alpaca" and self.history)

    @property
    def has_system(self) -> bool:
        """Whether there is a place for a system turn."""
        return self.is_chat or self.format == "alpaca"

    def describe(self) -> str:
        """A few words for who is told how a model is asked."""
        match self.format:
            case "chat":
                return "as a user's turn of a chat" + (", after the system turn of the training" if self.system else "")
            case "alpaca":
                return "as an instruction, put into prompts" + (", after a system text" if self.system else "")
            case _:
                return "as it is, without a chat template"


def write_prompting(prompting: Prompting, folder: Path) -> None:
    """Writes the description, and the template beside it.

    Raises:
        OSError: if what is read back is not what was written.
    """
    has_template = prompting.chat_template is not None
    fields = {
        "version": VERSION,
        "lodos_version": prompting.lodos_version,
        "format": prompting.format,
        "formats": list(prompting.formats or (prompting.format,)),
        "prompts": None if prompting.prompts is None else dataclasses.asdict(prompting.prompts),
        "chat_template": TEMPLATE_FILE if has_template else None,
        "system": prompting.system,
        "history": prompting.history,
        "chat_template_kwargs": dict(prompting.chat_template_kwargs),
        "date": None if prompting.date is None else prompting.date.isoformat(),
        "bos": prompting.bos,
        "special_tokens_as_text": prompting.special_tokens_as_text,
        "end_tokens": [dataclasses.asdict(token) for token in prompting.end_tokens],
        "answers_begin": prompting.answers_begin,
    }
    write_json(folder / FILE, fields)
    if has_template:
        write_template(prompting.chat_template or "", folder)


def write_template(template: str, folder: Path) -> None:
    """Writes a chat template where transformers looks for it, unless it stands there.

    Raises:
        OSError: if what is read back is not what was written.
    """
    path = folder / TEMPLATE_FILE
    if not path.exists() or path.read_text(encoding="utf-8") != template:
        path.write_bytes(template.encode())
        if path.read_bytes() != template.encode():
            raise OSError(f"{path}: read back differently than written.")


def read_prompting(folder: Path) -> Prompting | None:
    """How the model or adapter in `folder` was trained to be asked; None where nothing says so.

    Raises:
        UserError: for a file that is damaged, incomplete or of a later version, by file and field, all at once.
    """
    path = folder / FILE
    if not path.exists():
        return None
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise UserError(f"{path}: must be a JSON object, found {type(fields).__name__}.")
    version = fields.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise UserError(
            f"{path}: version: {version!r} is not 1 to {VERSION}, which lodos {__version__} reads"
            + (f"; lodos {fields['lodos_version']} wrote it." if "lodos_version" in fields else ".")
            + " Use that lodos, or remove the file and say how to ask: --prompts or --chat."
        )
    for later in range(version + 1, VERSION + 1):
        fields = {**_ADDED[later], **fields}
    problems = [*_problems(fields), *_template_problems(fields, folder)]
    if problems:
        raise UserError("\n".join(f"{path}: {problem}" for problem in problems))
    prompts = fields["prompts"]
    return Prompting(
        format=fields["format"],
        formats=tuple(fields["formats"]),
        prompts=None if prompts is None else read_prompts(prompts),
        chat_template=(folder / TEMPLATE_FILE).read_text(encoding="utf-8") if fields["chat_template"] else None,
        system=fields["system"],
        history=fields["history"],
        chat_template_kwargs=fields["chat_template_kwargs"],
        date=None if fields["date"] is None else datetime.date.fromisoformat(fields["date"]),
        bos=fields["bos"],
        special_tokens_as_text=fields["special_tokens_as_text"],
        end_tokens=tuple(EndToken(**token) for token in fields["end_tokens"]),
        answers_begin=fields["answers_begin"],
        lodos_version=fields["lodos_version"],
    )


def _is_end_token(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"id", "text"}
        and type(value["id"]) is int
        and value["id"] >= 0
        and isinstance(value["text"], str)
    )


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.date.fromisoformat(value))
    except ValueError:
        return False


# What each field may hold, in words and as a test.
_FIELDS: Mapping[str, tuple[str, Any]] = {
    "version": ("a number", lambda value: type(value) is int),
    "lodos_version": ("text", lambda value: isinstance(value, str)),
    "format": (f"one of {', '.join(FORMATS)}", lambda value: value in FORMATS),
    "formats": (
        f"a list of {', '.join(FORMATS)}",
        lambda value: isinstance(value, list) and value and all(name in FORMATS for name in value),
    ),
    "prompts": ("null or a mapping", lambda value: value is None or isinstance(value, dict)),
    "chat_template": (f"null or {TEMPLATE_FILE}", lambda value: value in (None, TEMPLATE_FILE)),
    "system": ("null or text", lambda value: value is None or isinstance(value, str)),
    "history": ("true or false", lambda value: isinstance(value, bool)),
    "chat_template_kwargs": (
        "a mapping of variables",
        lambda value: isinstance(value, dict) and not variable_problems(value),
    ),
    "date": ("null or a date such as 2026-01-31", lambda value: value is None or _is_date(value)),
    "bos": ("true, false or null", lambda value: value is None or isinstance(value, bool)),
    "special_tokens_as_text": ("true or false", lambda value: isinstance(value, bool)),
    "end_tokens": (
        'a list such as [{"id": 2, "text": "</s>"}]',
        lambda value: isinstance(value, list) and all(map(_is_end_token, value)),
    ),
    "answers_begin": ("a character", lambda value: isinstance(value, str) and len(value) == 1),
}


def _problems(fields: Mapping[str, Any]) -> list[str]:
    problems = [f"{name}: missing; it is {what}." for name, (what, _) in _FIELDS.items() if name not in fields]
    problems += [f"{name}: unknown." for name in fields if name not in _FIELDS]
    problems += [
        f"{name}: must be {what}, found {fields[name]!r}."
        for name, (what, fits) in _FIELDS.items()
        if name in fields and not fits(fields[name])
    ]
    if problems:
        return problems
    if fields["format"] not in fields["formats"]:
        problems.append(f"format: {fields['format']!r} is not among formats.")
    if "alpaca" in fields["formats"] and fields["prompts"] is None:
        problems.append("prompts: null, though instructions were trained.")
    if fields["prompts"] is not None:
        try:
            read_prompts(fields["prompts"])
        except UserError as error:
            problems += str(error).splitlines()
    return problems


def _template_problems(fields: Mapping[str, Any], folder: Path) -> list[str]:
    if fields.get("chat_template") != TEMPLATE_FILE:
        return []
    try:
        (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return [f"chat_template: {TEMPLATE_FILE} is not beside it."]
    except (OSError, UnicodeDecodeError) as error:
        return [f"chat_template: {TEMPLATE_FILE} cannot be read: {error}."]
    return []
