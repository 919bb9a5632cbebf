"""YAML as its version 1.2 has it, read and written with PyYAML, which by itself reads version 1.1:

3e-4                    PyYAML reads text; here it is a number
1_000, 1:30, 2026-11-24 PyYAML reads numbers and a date; here they are text
off, yes, no            PyYAML reads booleans; here they are text
a key given twice       PyYAML keeps the last; here it is an error

Of version 1.1 the merge key is kept, since configs are written with it: `<<: *base` gives a mapping what `base` has and
it has not itself.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from yaml.reader import ReaderError

from lodos.config_secrets import LONGEST_SHOWN

DEEPEST = 50
"""Lists and mappings within one another, those behind anchors included."""
MOST_VALUES = 20_000
"""Of a document, each as often as an anchor puts it somewhere."""
MOST_DIGITS = 400
"""Of a number."""
MOST_CHARACTERS = 2**20
"""Of a document, and of its texts, each as often as an anchor puts it somewhere."""


def load_yaml(text: str, *, numbers_as_text: bool = False) -> Any:
    """The value of a YAML document; None of an empty one.

    Args:
        numbers_as_text: give numbers as they are written, such as 007 or 1.10.

    Raises:
        yaml.YAMLError: with the line.
    """
    with _failures(text):
        return yaml.load(_bounded(text), Loader=_TextLoader if numbers_as_text else _Loader)


def dump_yaml(value: Any) -> str:
    """What `load_yaml` reads back equal, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def flow_yaml(value: Any) -> str:
    """A value on one line, as it would stand after its name."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()


def anchor_holders(text: str) -> set[str]:
    """The keys at the top of a document with an anchor in them that a later key refers to."""
    with _failures(text):
        root = yaml.compose(_bounded(text), Loader=_Loader)
    if not isinstance(root, yaml.MappingNode):
        return set()
    holder: dict[int, str] = {}
    found: set[str] = set()
    for key, value in root.value:
        for node in _nodes(value, set()):
            owner = holder.setdefault(id(node), str(key.value))
            if owner != key.value:
                found.add(owner)
    return found


def _nodes(node: yaml.Node, seen: set[int]) -> Iterator[yaml.Node]:
    """A node and those in it, each once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    yield node
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _nodes(key, seen)
            yield from _nodes(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _nodes(item, seen)


def _listed(node: yaml.Node) -> list[Any]:
    return node.value if isinstance(node, yaml.SequenceNode) else [node]


_TAG = "tag:yaml.org,2002:"
_BOOL, _INT, _FLOAT, _MERGE = (f"{_TAG}{kind}" for kind in ("bool", "int", "float", "merge"))


_TAGS = frozenset(f"{_TAG}{kind}" for kind in ("bool", "int", "float", "merge", "null", "str", "map", "seq"))


def _bounded(text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text):,} characters, more than {MOST_CHARACTERS:,}.")
    return text


def _beyond(mark: yaml.Mark) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(
        problem=f"more than {MOST_VALUES:,} values or {MOST_CHARACTERS:,} characters, or lists and mappings in one "
        f"another more than {DEEPEST} deep",
        problem_mark=mark,
    )


_HALF_PAIR = re.compile("[\ud800-\udfff]")
_FAILURES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What PyYAML fails with over a tag and a text that is none of its kind, and over a character that there is not."""


@contextmanager
def _failures(text: str) -> Iterator[None]:
    """Turns what PyYAML fails with into its own error."""
    try:
        yield
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise yaml.YAMLError(f"line {line}: the character #x{error.character:04x} cannot stand in YAML.") from None
    except yaml.YAMLError:
        raise
    except _FAILURES as error:
        raise yaml.YAMLError(f"{_shortened(error)}.") from None


def _shortened(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema for numbers and booleans, merge keys, and no repeated keys."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._flattened: set[int] = set()
        self._depth = self._count = 0
        self._extents: dict[int, tuple[int, int, int]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node within bounds: its values once for each place where an anchor puts them, its depth likewise."""
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._depth += 1
        self._count += 1
        if self._depth > DEEPEST or self._count > MOST_VALUES:
            raise _beyond(mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None or id(node) in self._extents:
            return node
        if is_alias:  # of what is not whole yet
            raise yaml.MarkedYAMLError(problem="what an anchor names holds itself", problem_mark=mark)
        if node.tag not in _TAGS:
            tag = f"!!{node.tag.removeprefix(_TAG)}" if node.tag.startswith(_TAG) else node.tag
            raise yaml.MarkedYAMLError(problem=f"the tag {tag[:LONGEST_SHOWN]} is not read", problem_mark=mark)
        if isinstance(node, yaml.ScalarNode):
            self._extents[id(node)] = 1, 1, len(node.value)
            return node
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        extents = [self._extents[id(part)] for part in inner]
        count = 1 + sum(extent[0] for extent in extents)
        depth = 1 + max((extent[1] for extent in extents), default=0)
        length = sum(extent[2] for extent in extents)
        if count > MOST_VALUES or depth > DEEPEST or length > MOST_CHARACTERS:
            raise _beyond(mark)
        self._extents[id(node)] = count, depth, length
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except _FAILURES as error:
            raise yaml.MarkedYAMLError(
                problem=f"a value that is none of its tag: {_shortened(error)}", problem_mark=node.start_mark
            ) from None

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        if _HALF_PAIR.search(text):
            raise yaml.MarkedYAMLError(problem="half of a surrogate pair is no text", problem_mark=node.start_mark)
        return text

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts what it merges before its own keys: of several mappings the first that has a key gives it."""
        if id(node) in self._flattened:
            return
        self._flattened.add(id(node))
        self._check_keys(node)
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        have = {self.construct_object(key, deep=True) for key, _ in own}
        merged = []
        for key, value in node.value:
            for source in _listed(value) if key.tag == _MERGE else []:
                self.flatten_mapping(source)
                for pair in source.value:
                    if pair[0].tag != _MERGE and (name := self.construct_object(pair[0], deep=True)) not in have:
                        have.add(name)
                        merged.append(pair)
        node.value = merged + own

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: dict[Any, int] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            is_merge = key_node.tag == _MERGE
            key = key_node.value if is_merge else self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | None):
                raise yaml.YAMLError(f"line {line}: {key!r} cannot be a key.")
            if key in seen:
                hint = " Write <<: [*one, *other]." if is_merge else ""
                raise yaml.YAMLError(f"line {line}: {key!r} is given twice; the first is in line {seen[key]}.{hint}")
            seen[key] = line
            if is_merge and not all(isinstance(item, yaml.MappingNode) for item in _listed(value)):
                raise yaml.YAMLError(
                    f"line {line}: << takes a mapping, or a list of mappings, that an anchor names: <<: *base with "
                    "base: &base {...} above it."
                )

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        # PyYAML takes 0123 for octal.
        text = self.construct_scalar(node)
        if len(text) > MOST_DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"a number of {len(text):,} digits, more than {MOST_DIGITS}", problem_mark=node.start_mark
            )
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


class _TextLoader(_Loader):
    """The same with numbers as they are written."""


_Loader.add_constructor(_INT, _Loader.construct_yaml_int)
_TextLoader.add_constructor(_INT, _TextLoader.construct_scalar)
_TextLoader.add_constructor(_FLOAT, _TextLoader.construct_scalar)
_NOT_IN_1_2 = (_BOOL, _INT, _FLOAT, f"{_TAG}timestamp", f"{_TAG}value")
for _loader in (_Loader, _TextLoader):
    _loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NOT_IN_1_2]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _loader.add_implicit_resolver(_BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    _loader.add_implicit_resolver(_INT, re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789"))
    _loader.add_implicit_resolver(
        _FLOAT,
        re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
        list("-+.0123456789"),
    )


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: text that looks like one of its numbers or booleans is quoted."""


_Dumper.yaml_implicit_resolvers = {
    first: [
        *_Loader.yaml_implicit_resolvers.get(first, []),
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {*_Loader.yaml_implicit_resolvers, *yaml.SafeDumper.yaml_implicit_resolvers}
}
