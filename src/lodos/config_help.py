"""What is known of the fields of a config dataclass: names, types, the sentence beneath each; and a help made of it.

A field that must be given has an example of its value in its metadata: `field(metadata={"example": "rows.jsonl"})`.
"""

import ast
import dataclasses
import inspect
import itertools
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 100
"""Of the help where there is no narrower terminal."""
_WHENCE = (
    "Options are read from the YAML file (also -c, --config or --config_path FILE.yaml), then from the command line, "
    "which wins."
)
_EXAMPLES = {str: "TEXT", int: 1, float: 0.1, bool: "true"}


def format_help(cls: Any, *, prog: str, description: str) -> str:
    """Every option of `cls`, in sections, with its type, its default and what it does."""
    width = min(WIDTH, max(shutil.get_terminal_size((WIDTH, 24)).columns, 40))
    lines = [f"usage: {prog} [FILE.yaml] [--option value ...]", ""]
    lines += textwrap.wrap(inspect.cleandoc(description), width)
    lines += ["", *textwrap.wrap(_WHENCE, width), ""]
    lines += _section(cls, "", width)
    return "\n".join(lines)


def known_names(cls: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted name and the type of each field of a dataclass and of the dataclasses in it."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{prefix}{field.name}"
        yield name, hints[field.name]
        if dataclasses.is_dataclass(hints[field.name]):
            yield from known_names(hints[field.name], f"{name}.")


def missing_names(cls: Any, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of the fields that have to be given and are not."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        if field.name not in values and has_default(field):
            continue
        if dataclasses.is_dataclass(hint):
            section = values.get(field.name, {})
            if isinstance(section, Mapping):
                yield from missing_names(hint, section, f"{name}.")
        elif field.name not in values:
            yield name


def example(cls: Any, name: str) -> Any:
    """A value that the field of a dotted name could have."""
    *sections, last = name.split(".")
    for section in sections:
        cls = typing.get_type_hints(cls)[section]
    (field,) = (field for field in dataclasses.fields(cls) if field.name == last)
    if "example" in field.metadata:
        return field.metadata["example"]
    if field.default not in (dataclasses.MISSING, None):
        return field.default
    hint = typing.get_type_hints(cls)[last]
    (first, *_) = typing.get_args(hint) if is_union(hint) or typing.get_origin(hint) is typing.Literal else (hint,)
    return _EXAMPLES.get(first, first if isinstance(first, str) else type_name(first))


def field_docs(cls: Any) -> dict[str, str]:
    """The string literal beneath each field of a dataclass, bases included."""
    docs: dict[str, str] = {}
    for base in reversed(inspect.getmro(cls)):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):
            continue
        statements = getattr(body, "body", [])
        for field, doc in itertools.pairwise(statements):
            match field, doc:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = inspect.cleandoc(text)
    return docs


def _section(cls: Any, prefix: str, width: int) -> list[str]:
    hints, docs = typing.get_type_hints(cls), field_docs(cls)
    lines: list[str] = []
    nested: list[str] = []
    for field in sorted(dataclasses.fields(cls), key=has_default):
        hint, name = hints[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint):
            title = (inspect.getdoc(hint) or "").split("\n\n")[0].replace("\n", " ")
            nested += ["", *textwrap.wrap(f"{name}: {title}", width), "", *_section(hint, f"{name}.", width)]
            continue
        option, default = f"  --{name} {type_name(hint)}", _default(field)
        lines += [option + default] if len(option + default) <= width or not default else [option, f"   {default}"]
        lines += textwrap.wrap(docs.get(field.name, ""), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines + nested


def is_union(hint: Any) -> bool:
    """Whether a type is `X | Y`."""
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def type_name(hint: Any) -> str:
    """A type in the words of a command line: `INT`, `true|false`, `TEXT|null`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_union(hint):
        return "|".join("null" if arg is type(None) else type_name(arg) for arg in args)
    if origin is typing.Literal:
        return "{" + ",".join(map(str, args)) + "}"
    if origin in (list, tuple):
        return f"[{type_name(args[0])},...]"
    if origin is dict:
        return "{name: value}"
    return {str: "TEXT", int: "INT", float: "NUMBER", bool: "true|false"}.get(hint, str(hint))


def has_default(field: dataclasses.Field[Any]) -> bool:
    """Whether a field may be left out."""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return f"   (required, such as {field.metadata['example']})" if "example" in field.metadata else "   (required)"
    if value is None:
        return ""
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, tuple | list):
        value = f"[{', '.join(map(str, value))}]"
    return f"   (default: {value})"
