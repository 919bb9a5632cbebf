"""What is wrong with the values of a config: unknown names, wrong types, what is missing, and what a class refuses."""

import dataclasses
import difflib
import itertools
import re
import shlex
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lodos.config_help import example, field_docs, has_default, is_union, known_names, missing_names, type_name
from lodos.config_secrets import LONGEST_SHOWN, shown
from lodos.errors import UserError
from lodos.json_files import is_whole

_LARGEST_INT, _LARGEST_FLOAT = 2**64, 10**308
_MOST_UNKNOWN = 50
"""Names of which an error speaks: more come from a file that is something else."""
_YES, _NO = ("yes", "on", "y", "1", "true"), ("no", "off", "n", "0", "false")


def unknown_names(cls: Any, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of values for which the dataclass has no field."""
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in hints:
            yield f"{prefix}{key}"
        elif dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            yield from unknown_names(hints[key], value, f"{prefix}{key}.")


def nearest(name: str, known: Sequence[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that is most like it, also without its sections; or that ends like it, or has it as initials; or
    is its initials in the same section (`lora.rank`, `lora.r`)."""
    name = name.lower()
    same = [other for other in known if _joined(other) == _joined(name)]
    last = _last(name)
    initials = [other for other in known if len(last) > 1 and _initials(_last(other)) == last]
    initials += [other for other in known if other == f"{name[: -len(last)]}{_initials(last)}"]
    close = difflib.get_close_matches(name, known, cutoff=cutoff)
    alike = [other for other in close if difflib.SequenceMatcher(None, last, _last(other)).ratio() >= cutoff]
    alike += sorted(other for other in known if _last(other) == last)
    return next(iter([*same, *(other for other in alike if _last(other) == last), *initials, *alike]), None)


def _joined(name: str) -> str:
    return name.replace("-", "_").replace(".", "_")


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split("_") if word)


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def unknown_problems(cls: Any, names: Mapping[str, str], prefix: str = "") -> list[str]:
    """A line for each unknown name; where none is like it, those that are known there follow, once.

    Args:
        names: what to call each in the error, by its dotted name.
        prefix: the section that `cls` is.
    """
    known = [name for name, _ in known_names(cls, prefix)]
    problems, strangers = [], []
    for name, called in itertools.islice(names.items(), _MOST_UNKNOWN):
        close = nearest(name, known) if len(name) <= LONGEST_SHOWN else None
        if close == name:
            # A key of a file with a dot in it; a flag of this name would be known.
            hint = f" In a file, write {_in_sections(name, '...')}."
        else:
            hint = f" Did you mean {'--' if called.startswith('--') else ''}{close}?" if close else ""
        shown_name = called if len(called) <= LONGEST_SHOWN else f"{called[:LONGEST_SHOWN]}..."
        problems.append(f"{shown_name}: unknown.{hint}")
        if close is None:
            strangers.append(name.rpartition(".")[0])
    if len(names) > _MOST_UNKNOWN:
        problems.append(f"And {len(names) - _MOST_UNKNOWN:,} more are unknown.")
    for section in dict.fromkeys(strangers):
        start = f"{section}." if section else ""
        siblings = sorted(name for name in known if name.startswith(start) and "." not in name[len(start) :])
        problems.append(f"Known{f' in {section}' if section else ''}: {', '.join(siblings)}.")
    return problems


def _in_sections(name: str, value: Any) -> str:
    """A dotted name and its value as one line of a file."""
    *sections, last = name.split(".")
    return "".join(f"{section}: {{" for section in sections) + f"{last}: {value}" + "}" * len(sections)


def known_part(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values for which there are fields, with the sections that have to be there.

    A section of which everything is commented out, and a required name without a value, are as if they were not there.
    """
    hints = typing.get_type_hints(cls)
    required = {field.name for field in dataclasses.fields(cls) if not has_default(field)}
    kept = {}
    for name, value in values.items():
        is_section = name in hints and dataclasses.is_dataclass(hints[name])
        is_empty = value is None and (is_section or (name in required and not fits(None, hints[name])))
        if name not in hints or is_empty:
            continue
        kept[name] = known_part(hints[name], value) if is_section and isinstance(value, Mapping) else value
    for field in dataclasses.fields(cls):
        if field.name not in kept and not has_default(field) and dataclasses.is_dataclass(hints[field.name]):
            kept[field.name] = {}
    return kept


def missing_problems(cls: Any, values: Mapping[str, Any], config_file: str | None, *, prog: str) -> list[str]:
    """A line for each field that has to be given and is not, with what to write in the file or on the command line."""
    problems = []
    for name in missing_names(cls, values):
        value = example(cls, name)
        flag = f"--{name} {shlex.quote(str(value))}"
        text = _in_sections(name, value)
        problems.append(f"{name}: not given. Write {f'{text} in {config_file} or {flag}' if config_file else flag}")
    if problems and not config_file:
        problems.append(f"Options can stand in a file too, as name: value. Give it as {prog} my.yaml")
    return problems


def value_problems(cls: Any, values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The values that cannot be of their fields' types, and what each class has to say against its own, by dotted name.

    A class is asked when all of its fields could be made.
    """
    problems = []
    for field in dataclasses.fields(cls):
        hint = typing.get_type_hints(cls)[field.name]
        if field.name not in values:
            continue
        name, value = f"{prefix}{field.name}", values[field.name]
        if not dataclasses.is_dataclass(hint):
            if not fits(value, hint):
                problems.append(_type_problem(cls, field, hint, name, value))
        elif isinstance(value, Mapping):
            problems += value_problems(hint, value, f"{name}.")
        else:
            first = dataclasses.fields(hint)[0].name
            problems.append(f"{name}: a section of settings, such as {{{first}: ...}}; found {shown(value, name)}.")
    if not problems and not list(missing_names(cls, values)):
        try:
            decoded(cls, values, prefix)
        except UserError as error:
            problems += str(error).splitlines()
    return problems


def decoded(cls: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """The dataclass made of values that are known and of the right types.

    Raises:
        UserError: what it has to say against them, each line with the prefix.
    """
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


def _type_problem(cls: Any, field: dataclasses.Field[Any], hint: Any, name: str, value: Any) -> str:
    fix = _fix(value, hint)
    if fix is None and value is None and has_default(field):
        fix = "Leave it out for its default."
    meaning = " ".join(field_docs(cls).get(field.name, "").split())
    return " ".join(filter(None, (f"{name}: must be {type_name(hint)}, found {shown(value, name)}.", fix, meaning)))


def _fix(value: Any, hint: Any) -> str | None:
    """What to write instead of a value that is meant as what it should be."""
    kinds = set(typing.get_args(hint)) if is_union(hint) else {hint}
    origins = {typing.get_origin(kind) or kind for kind in kinds}
    if bool in kinds and (word := str(value).lower()) in _YES + _NO:
        return f"Write {'true' if word in _YES else 'false'}."
    if kinds & {int, float} and not isinstance(value, bool) and (number := _number(value, int in kinds)) is not None:
        return f"Write {number}."
    if str in kinds and isinstance(value, bool):
        return f'Write "{str(value).lower()}" with quotes if that is the text.'
    if typing.Literal in origins and isinstance(value, str):
        words = [str(word) for kind in kinds for word in typing.get_args(kind)]
        close = difflib.get_close_matches(value, words, n=1)
        return f"Did you mean {close[0]}?" if close else None
    if origins & {list, tuple} and isinstance(value, str):
        return f"Write [{value}]." if not re.search(r"[\[\]{}:#]", value) else None
    return None


def _number(value: Any, whole: bool) -> int | float | None:
    """The number that is meant by text such as "1_000" or "3e-4", or by 1e3 where a whole one is wanted."""
    text = str(value).strip().replace("_", "").replace(",", "") if isinstance(value, str | float) else ""
    try:
        number = float(text)
    except ValueError:
        return None
    if number.is_integer():
        return int(number)
    return None if whole else number


def fits(value: Any, hint: Any) -> bool:
    """Whether a value can be of a type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if is_union(hint):
        return any(fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(fits(item, args[1]) for item in value.values())
    if hint is float:
        return isinstance(value, float) or is_whole(value, -_LARGEST_FLOAT, _LARGEST_FLOAT)
    if hint is str:
        # A number is meant as a name, such as `id: 2026`.
        return isinstance(value, str) or fits(value, float)
    if hint is int:
        return is_whole(value, -_LARGEST_INT, _LARGEST_INT)
    return isinstance(value, hint)


def as_written(value: Any, text: Any, hint: Any) -> Any:
    """The value with numbers as they are written, such as 007, where a field takes text and no numbers.

    Args:
        text: the value with all of its numbers as text.
        hint: the type of the field, which may be a dataclass.
    """
    if isinstance(value, Mapping):
        hints = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}
        inner = _of_mappings(hint)
        items = zip(value.items(), text.values(), strict=True)
        return {key: as_written(item, written, hints.get(key, inner)) for (key, item), written in items}
    kinds = typing.get_args(hint) if is_union(hint) else (hint,)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return text if str in kinds and not {int, float} & set(kinds) else value
    lists = [kind for kind in kinds if typing.get_origin(kind) in (list, tuple)]
    if isinstance(value, list) and lists:
        return [as_written(*pair, typing.get_args(lists[0])[0]) for pair in zip(value, text, strict=True)]
    return value


def _of_mappings(hint: Any) -> Any:
    """The type of the values of a mapping, if it may be one of anything but Any."""
    for kind in typing.get_args(hint) if is_union(hint) else (hint,):
        if typing.get_origin(kind) is dict:
            return typing.get_args(kind)[1]
    return Any
