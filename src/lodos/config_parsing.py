"""From a YAML file and flags to a dataclass, strictly.

draccus decodes values into the types of the fields. Around it stands what a user of a config file trips over: unknown
keys are listed all at once, each with the nearest known one, and so are values of the wrong type.

Flags are dotted names (`--trainer.num_train_steps 100`) and win over the file; `--strict` alone is `--strict true`. A
dataclass may take keys of other names as well (`Translating`). This file knows nothing of the dataclasses it fills.
"""

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import yaml

from lodos.config_help import field_docs, format_help, is_union, type_name
from lodos.errors import UserError
from lodos.yaml12 import dump_yaml, load_yaml

T = TypeVar("T")

CONFIG_FLAG = "--config_path"
HIDDEN = "<hidden>"
_SECRET = re.compile(r"(^|_)(token|api_?key|key|password|secret)s?$")


def parse_config(cls: type[T], argv: Sequence[str], *, prog: str, description: str = "") -> T:
    """An instance of the dataclass `cls` from `--config_path file.yaml` and flags.

    Args:
        prog: the command, for the help.

    Raises:
        UserError: that lists everything unknown, missing or of the wrong type, by its dotted name.
        SystemExit: with 0 after printing the help for `--help`.
    """
    if any(flag in ("-h", "--help") for flag in argv):
        print(format_help(cls, prog=prog, description=description))
        raise SystemExit(0)
    hints = dict(known_names(cls))
    path, texts = _split_flags(argv, switches={name for name, hint in hints.items() if hint is bool})
    flags = {name: _flag_value(name, text, hints.get(name)) for name, text in texts.items()}
    problems: list[str] = []
    from_file = {} if path is None else _translated(cls, read_yaml(Path(path)), f"{path}: ", problems)
    nested = _translated(cls, _nested(flags), "--", problems)
    known = set(hints)
    problems += [f"{path}: {problem}" for problem in _unknown(from_file, cls, known)]
    problems += [f"--{problem}" for problem in _unknown(nested, cls, known)]
    if problems:
        raise UserError("\n".join(problems))
    return _decode(cls, _without_empty_sections(cls, _merged(from_file, nested)))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file; empty for an empty file.

    Raises:
        UserError: for a missing file, broken YAML, a repeated key, or something other than a mapping.
    """
    try:
        value = load_yaml(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{CONFIG_FLAG}: {path}: there is no such file.") from None
    except OSError as error:
        raise UserError(f"{CONFIG_FLAG}: {path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}; a config is a mapping of names to values.")
    return value


def parse_section(cls: type[T], values: Mapping[str, Any], name: str) -> T:
    """An instance of the dataclass `cls` from a mapping that a config holds under `name`.

    Raises:
        UserError: as `parse_config` does.
    """
    prefix = f"{name}."
    known = {known for known, _ in known_names(cls, prefix)}
    problems = list(_unknown(values, cls, known, prefix)) or list(_type_problems(cls, values, prefix))
    if problems:
        raise UserError("\n".join(problems))
    return _decoded(cls, values, prefix)


def dump_config(config: Any) -> str:
    """The config as YAML that `parse_config` reads back to an equal one. Secrets are not written."""
    return dump_yaml(encode_config(config))


def encode_config(config: Any) -> dict[str, Any]:
    """The config as mappings, lists and plain values, without its secrets."""
    import draccus

    return _without_secrets(draccus.encode(config))


def known_names(cls: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted name and the type of each field of a dataclass and of the dataclasses in it."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{prefix}{field.name}"
        yield name, hints[field.name]
        if dataclasses.is_dataclass(hints[field.name]):
            yield from known_names(hints[field.name], f"{name}.")


@runtime_checkable
class Translating(Protocol):
    """A dataclass that can be filled from a config in other words than its own."""

    @classmethod
    def translated(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The nested values under the names of the fields; a UserError lists what has no place among them."""
        ...


def _translated(cls: Any, values: dict[str, Any], origin: str, problems: list[str]) -> dict[str, Any]:
    if not isinstance(cls, Translating):
        return values
    try:
        return cls.translated(values)
    except UserError as error:
        problems += [f"{origin}{line}" for line in str(error).splitlines()]
        return {}


def _split_flags(argv: Sequence[str], switches: set[str]) -> tuple[str | None, dict[str, str]]:
    """The config path and the flags by dotted name, their values as they were typed; a switch alone is true."""
    flags: dict[str, str] = {}
    rest = list(argv)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or flag == "--":
            raise UserError(f"{flag!r}: not a flag. Options are given as --name value.")
        name, equals, value = flag.partition("=")
        if not equals:
            is_alone = not rest or re.match(r"--[A-Za-z]", rest[0])
            if is_alone and name[2:] not in switches:
                raise UserError(f"{name}: needs a value, such as {name} 1.")
            value = "true" if is_alone else rest.pop(0)
        name = name[2:]
        if name in flags:
            raise UserError(f"--{name}: given twice.")
        flags[name] = value
    return flags.pop(CONFIG_FLAG[2:], None), flags


def _flag_value(name: str, text: str, hint: Any) -> Any:
    """The value of a flag: YAML, but text verbatim where the field takes text and nothing else fits."""
    kinds = set(typing.get_args(hint)) if is_union(hint) else {hint}
    origins = {typing.get_origin(kind) or kind for kind in kinds}
    if text == "null" and type(None) in kinds:
        return None
    collection = text.lstrip()[:1] in ("[", "{") and origins & {list, dict, tuple}
    if str in kinds and not collection and not origins & {int, float}:
        return text
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"--{name}: {text!r} is not valid YAML: {error}") from None


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        *sections, last = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UserError(f"--{name}: {section} is given both as a value and as a section.")
        place[last] = value
    return nested


def _unknown(values: Mapping[str, Any], cls: Any, known: set[str], prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in hints:
            close = difflib.get_close_matches(name, known, n=1) or [
                other for other in sorted(known) if other.rsplit(".", 1)[-1] == key
            ]
            hint = f" Did you mean {close[0]}?" if close else f" Known: {', '.join(_siblings(known, prefix))}."
            yield f"{name}: unknown.{hint}"
        elif dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            yield from _unknown(value, hints[key], known, f"{name}.")


def _siblings(known: set[str], prefix: str) -> list[str]:
    return sorted(name for name in known if name.startswith(prefix) and "." not in name[len(prefix) :])


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _without_empty_sections(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """A section of which everything is commented out is as if it were not there."""
    hints = typing.get_type_hints(cls)
    kept = {}
    for name, value in values.items():
        is_section = dataclasses.is_dataclass(hints[name])
        if is_section and value is None:
            continue
        is_filled = is_section and isinstance(value, Mapping)
        kept[name] = _without_empty_sections(hints[name], value) if is_filled else value
    return kept


def _decode(cls: type[T], values: dict[str, Any]) -> T:
    problems = list(_type_problems(cls, values)) or list(_section_problems(cls, values))
    if problems:
        raise UserError("\n".join(problems))
    return _decoded(cls, values, "")


def _type_problems(cls: Any, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The values that cannot be of their fields' types."""
    for name, hint in typing.get_type_hints(cls).items():
        if name not in values:
            continue
        value = values[name]
        if dataclasses.is_dataclass(hint):
            if isinstance(value, Mapping):
                yield from _type_problems(hint, value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}: a section of settings, such as {{{_first_field(hint)}: ...}}; found {value!r}."
        elif not _fits(value, hint):
            meaning = " ".join(field_docs(cls).get(name, "").split())
            yield f"{prefix}{name}: must be {type_name(hint)}, found {value!r}. {meaning}".rstrip()


def _first_field(cls: Any) -> str:
    return dataclasses.fields(cls)[0].name


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if is_union(hint):
        return any(_fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(_fits(item, args[1]) for item in value.values())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        # `id: 2026` is meant as a name.
        return isinstance(value, str | int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _section_problems(cls: Any, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What each section has to say against its values, innermost first, with its dotted name in front."""
    for name, hint in typing.get_type_hints(cls).items():
        section = values.get(name)
        if not dataclasses.is_dataclass(hint) or not isinstance(section, Mapping):
            continue
        inner = list(_section_problems(hint, section, f"{prefix}{name}."))
        yield from inner
        if not inner:
            try:
                _decoded(hint, section, f"{prefix}{name}.")
            except UserError as error:
                yield str(error)


def _decoded(cls: Any, values: Mapping[str, Any], prefix: str) -> Any:
    import draccus
    from draccus.utils import ParsingError

    try:
        return draccus.decode(cls, dict(values))
    except ParsingError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        lines = str(cause or error).replace("`", "").splitlines()
        raise UserError("\n".join(prefix + line for line in lines)) from None


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: HIDDEN if item is not None and _SECRET.search(key) else _without_secrets(item)
        for key, item in value.items()
    }
