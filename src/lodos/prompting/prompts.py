"""The text a model reads before it answers.

The two prompts of Stanford Alpaca (https://github.com/tatsu-lab/stanford_alpaca, `train.py`) are the default.
They end with "### Response:", and the answer follows at once, without a newline: what was trained there is
what is trained here.

A template is cut at its placeholders once, and the row's text is put between the pieces. Text is never
formatted a second time, so braces in a row are only braces.
"""

import functools
import os
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from lodos.errors import UserError
from lodos.json_files import parse_json
from lodos.places.objects import read_text
from lodos.places.place import place_of
from lodos.yaml12 import load_yaml

SYSTEM_END = "\n\n"
"""Stands between a system text and the prompt of an instruction."""

_PLACEHOLDERS = {"prompt_input": ("instruction", "input"), "prompt_no_input": ("instruction",)}


def _template_problems(key: str, template: str, names: tuple[str, ...]) -> list[str]:
    try:
        fields = [piece[1:] for piece in string.Formatter().parse(template) if piece[1] is not None]
    except ValueError as error:
        return [f"{key}: {error}. Write a literal brace as {{{{ or }}}}."]
    known = " and ".join(f"{{{name}}}" for name in names)
    problems = []
    for name, spec, conversion in fields:
        if name not in names or spec or conversion:
            tail = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            problems.append(
                f"{key}: unknown placeholder {{{name}{tail}}}; it knows {known}. Write a literal brace as {{{{ or }}}}."
            )
    used = {name for name, _, _ in fields}
    problems += [
        f"{key}: {{{name}}} is missing, so the {name} of a row would be lost." for name in names if name not in used
    ]
    return problems


@dataclass(frozen=True)
class Prompts:
    """The templates of an instruction with and without an input.

    `{instruction}` and `{input}` stand for the row's text; `{{` and `}}` are literal braces, as in
    `str.format`.

    Raises:
        UserError: for an unknown placeholder, one that is missing, or a stray brace; all of them at once.
    """

    prompt_input: str
    """The prompt of a row with an input: holds {instruction} and {input}."""
    prompt_no_input: str
    """The prompt of a row without one: holds {instruction}."""

    def __post_init__(self) -> None:
        problems = [
            problem
            for key, names in _PLACEHOLDERS.items()
            for problem in _template_problems(key, getattr(self, key), names)
        ]
        if problems:
            raise UserError("\n".join(problems))

    def render(self, instruction: str, text: str = "") -> str:
        """The prompt of an instruction, with the input `text` unless that is empty; the answer follows directly."""
        return "".join(piece for piece, _ in self.pieces(instruction, text))

    def pieces(self, instruction: str, text: str = "") -> list[tuple[str, bool]]:
        """The prompt in pieces: (text, whether it is the row's rather than the template's)."""
        values = {"instruction": instruction, "input": text}
        return [
            (values[piece], True) if is_name else (piece, False)
            for piece, is_name in _cut(self.prompt_input if text else self.prompt_no_input)
        ]


@functools.lru_cache(maxsize=64)
def _cut(template: str) -> list[tuple[str, bool]]:
    """(literal text, False) and (placeholder, True), in order."""
    pieces: list[tuple[str, bool]] = []
    for literal, name, _, _ in string.Formatter().parse(template):
        pieces += [(literal, False)] if literal else []
        pieces += [(name, True)] if name is not None else []
    return pieces


ALPACA_PROMPTS = Prompts(
    prompt_input=(
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    ),
    prompt_no_input=(
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:"
    ),
)


def read_prompts(prompts: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> Prompts:
    """The prompts of a mapping, or of a JSON or YAML file, with the keys `prompt_input` and
    `prompt_no_input`.

    None gives Stanford Alpaca's. Other keys are allowed and unused, since the template files of alpaca-lora
    carry a `description` and a `response_split`.

    Raises:
        UserError: for a missing key, a template that is not text, a bad placeholder or an unreadable file.
    """
    if prompts is None:
        return ALPACA_PROMPTS
    if isinstance(prompts, Mapping):
        return _from_mapping(prompts, "prompts")
    file = os.fspath(prompts)
    return _from_mapping(_read_mapping(file), file)


def _from_mapping(mapping: Mapping[str, Any], origin: str) -> Prompts:
    problems = []
    for key in _PLACEHOLDERS:
        if key not in mapping:
            problems.append(f"{origin}: {key} is missing; there are {', '.join(map(str, mapping)) or 'no keys'}.")
        elif not isinstance(mapping[key], str):
            problems.append(f"{origin}: {key} must be text, found {mapping[key]!r}.")
    if problems:
        raise UserError("\n".join(problems))
    try:
        return Prompts(mapping["prompt_input"], mapping["prompt_no_input"])
    except UserError as error:
        raise UserError("\n".join(f"{origin}: {line}" for line in str(error).split("\n"))) from None


def _read_mapping(file: str) -> Mapping[str, Any]:
    try:
        text = read_text(place_of(file))
        value = parse_json(text) if file.endswith(".json") else load_yaml(text)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such prompts file.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file}: the prompts cannot be read: {error}.") from None
    if not isinstance(value, Mapping):
        raise UserError(f"{file}: the prompts must be a mapping with {' and '.join(_PLACEHOLDERS)}.")
    return value
