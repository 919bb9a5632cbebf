"""From a YAML file and flags to a dataclass, strictly.

draccus decodes values into the types of the fields. Around it stands what a user of a config file trips over: whatever
is unknown, missing or of the wrong type is said in one error, with the nearest name and what to write.

Flags are dotted names (`--trainer.num_train_steps 100`) and win over the file. A dataclass may take keys of other names
as well (`Translating`). This file knows nothing of the dataclasses it fills.
"""

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import yaml

from lodos.config_argv import CONFIG_SUFFIXES, split_argv
from lodos.config_help import format_help, is_union, known_names
from lodos.config_problems import (
    as_written,
    decoded,
    known_part,
    missing_problems,
    nearest,
    unknown_names,
    unknown_problems,
    value_problems,
)
from lodos.config_secrets import HIDDEN, shown, without_secrets, without_tokens
from lodos.errors import UserError
from lodos.json_files import parse_json
from lodos.known_secrets import remember_text
from lodos.places.looking import is_there, names_in
from lodos.places.objects import read_text
from lodos.places.place import Place, place_of
from lodos.yaml12 import MOST_CHARACTERS, anchor_holders, dump_yaml, load_yaml

__all__ = [
    "HIDDEN",
    "Translating",
    "Translation",
    "dump_config",
    "encode_config",
    "known_names",
    "parse_config",
    "parse_section",
    "read_yaml",
]

T = TypeVar("T")

_LONGEST_SAID = 500
"""Characters of what is wrong with a YAML file: names in it may be of any length."""
_SURELY = 0.8
"""So much alike are a name and a misspelling of it, of 1."""


def parse_config(cls: type[T], argv: Sequence[str], *, prog: str, description: str = "") -> T:
    """An instance of the dataclass `cls` from a config file and flags: `my.yaml --name value`.

    Args:
        prog: the command, for the help.

    Raises:
        UserError: that lists everything unknown, missing or of the wrong type, by its dotted name.
        SystemExit: with 0 after printing the help for `--help`.
    """
    if any(flag in ("-h", "--help") for flag in argv):
        print(format_help(cls, prog=prog, description=description))
        raise SystemExit(0)
    arguments, problems = split_argv(cls, argv), []
    path = None if arguments.config_file is None else place_of(arguments.config_file)
    from_file = Translation({} if path is None else _read_config(cls, path))
    from_flags = Translation(_nested(cls, arguments.flags, problems))
    if issubclass(cls, Translating):
        from_file = cls.translated(from_file.values, "file")
        from_flags = cls.translated(from_flags.values, "flags")
    problems += [f"{path}: {problem}" for problem in from_file.problems]
    problems += [f"--{problem}" for problem in from_flags.problems]
    unknown = {name: f"{path}: {name}" for name in unknown_names(cls, from_file.values)}
    unknown |= {name: f"--{name}" for name in unknown_names(cls, from_flags.values)}
    problems += unknown_problems(cls, unknown)
    values = known_part(cls, _merged(known_part(cls, from_file.values), from_flags.values))
    problems += value_problems(cls, values)
    problems += missing_problems(cls, values, arguments.config_file, prog=prog)
    if problems:
        raise UserError("\n".join([*problems, *from_file.remarks]))
    return decoded(cls, values)


def parse_section(cls: type[T], values: Mapping[str, Any], name: str) -> T:
    """An instance of the dataclass `cls` from a mapping that a config holds under `name`.

    Raises:
        UserError: as `parse_config` does.
    """
    prefix = f"{name}."
    unknown = {unknown: unknown for unknown in unknown_names(cls, values, prefix)}
    problems = unknown_problems(cls, unknown, prefix) + value_problems(cls, known_part(cls, values), prefix)
    if problems:
        raise UserError("\n".join(problems))
    return decoded(cls, values, prefix)


def read_yaml(path: Place, *, numbers_as_text: bool = False) -> dict[str, Any]:
    """The mapping in a YAML 1.2 or JSON file; empty for an empty file.

    Args:
        numbers_as_text: give numbers as they are written.

    Raises:
        UserError: for a missing file, broken YAML, a repeated key, or something other than a mapping.
    """
    text = _text_of(path)
    try:
        if path.suffix.lower() == ".json" and text.strip():
            numbers: Any = {"parse_int": str, "parse_float": str} if numbers_as_text else {}
            value = parse_json(text, object_pairs_hook=_without_repeats, **numbers)
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        else:
            value = load_yaml(text, numbers_as_text=numbers_as_text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: line {error.lineno}: {error.msg}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {_said(error)}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}.") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}; a config is a mapping of names to values.")
    return value


def dump_config(config: Any) -> str:
    """The config as YAML that `parse_config` reads back to an equal one. Secrets are not written."""
    return dump_yaml(encode_config(config))


def encode_config(config: Any) -> dict[str, Any]:
    """The config as mappings, lists and plain values, without its secrets."""
    import draccus

    return without_secrets(draccus.encode(config))


@dataclasses.dataclass(frozen=True)
class Translation:
    """The nested values of a config under the names that the dataclass has for them."""

    values: dict[str, Any]
    problems: Sequence[str] = ()
    """A line for each key without a place, with its name in front."""
    remarks: Sequence[str] = ()
    """What the error ends with if there is one."""


@runtime_checkable
class Translating(Protocol):
    """A dataclass that can be filled from a config in other words than its own."""

    @classmethod
    def translated(cls, values: Mapping[str, Any], origin: Literal["file", "flags"]) -> Translation:
        """The values under the names of the fields, and what is to be said of those that have none."""
        ...


def _read_config(cls: Any, path: Place) -> dict[str, Any]:
    """The values of a file, without those that stand there for others to refer to."""
    values = as_written(read_yaml(path), read_yaml(path, numbers_as_text=True), cls)
    known = [name for name, _ in known_names(cls)]
    holders = set() if path.suffix.lower() == ".json" else anchor_holders(_text_of(path))
    idle = {name for name in holders - set(known) if nearest(name, known, cutoff=_SURELY) is None}
    return {name: value for name, value in values.items() if name not in idle}


def _text_of(path: Place) -> str:
    try:
        text = read_text(path, most=4 * MOST_CHARACTERS)
    except FileNotFoundError:
        there = [name for name in names_in(path.parent) if name.endswith(CONFIG_SUFFIXES)]
        close = difflib.get_close_matches(path.name, there, n=1)
        hint = f" Did you mean {path.with_name(close[0])}?" if close else " Give the path of your config file."
        raise UserError(f"{path}: there is no such file.{hint}") from None
    except IsADirectoryError:
        inner = path / "config.yaml"
        hint = f" Write {inner}." if is_there(inner) else " Give a file in it."
        raise UserError(f"{path}: a folder, where a config file is wanted.{hint}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}.") from None
    remember_text(text)
    return text


def _said(error: yaml.YAMLError) -> str:
    """What PyYAML says, without the line itself, which may hold a secret."""
    said = str(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        context = f"{error.context}, " if error.context else ""
        said = f"line {error.problem_mark.line + 1}: {context}{error.problem}."
    said = without_tokens(without_secrets(said))
    return said if len(said) <= _LONGEST_SAID else f"{said[:_LONGEST_SAID]}..."


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise yaml.YAMLError(f"{shown(key)} is given twice.")
        found[key] = value
    return found


def _nested(cls: Any, texts: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """The flags' values in their sections."""
    hints = dict(known_names(cls))
    nested: dict[str, Any] = {}
    for name, text in texts.items():
        *sections, last = name.split(".")
        place = nested
        for section in sections:
            inner = place.setdefault(section, {})
            if not isinstance(inner, dict):
                problems.append(f"--{name}: {section} is given both as a value and as a section.")
                inner = {}
            place = inner
        try:
            place[last] = _flag_value(text, hints.get(name))
        except yaml.YAMLError as error:
            problems.append(f"--{name}: {shown(text, name)} is not valid YAML: {_said(error)}")
    return nested


def _flag_value(text: str, hint: Any) -> Any:
    """The value of a flag: YAML, but text verbatim where the field takes text and nothing else fits."""
    kinds = set(typing.get_args(hint)) if is_union(hint) else {hint}
    origins = {typing.get_origin(kind) or kind for kind in kinds}
    if text == "null" and type(None) in kinds:
        return None
    collection = text.lstrip()[:1] in ("[", "{") and origins & {list, dict, tuple}
    if str in kinds and not collection and not origins & {int, float}:
        return text
    return as_written(load_yaml(text), load_yaml(text, numbers_as_text=True), hint)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
