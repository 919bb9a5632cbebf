"""YAML as its version 1.2 has it, read and written with PyYAML, which by itself reads version 1.1:

3e-4                    PyYAML reads text; here it is a number
off, yes, no            PyYAML reads booleans; here they are text
a key given twice       PyYAML keeps the last; here it is an error
"""

import re
from typing import Any

import yaml


def load_yaml(text: str) -> Any:
    """The value of a YAML document; None of an empty one.

    Raises:
        yaml.YAMLError: with the line.
    """
    return yaml.load(text, Loader=_Loader)


def dump_yaml(value: Any) -> str:
    """What `load_yaml` reads back equal, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema for numbers and booleans, and no repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str | int | float | None):
                raise yaml.YAMLError(f"line {line}: {key!r} cannot be a key.")
            if key in seen:
                raise yaml.YAMLError(f"line {line}: {key!r} is given twice; the first is in line {seen[key]}.")
            seen[key] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        # PyYAML takes 0123 for octal.
        return int(self.construct_scalar(node), 10)


_BOOL, _INT, _FLOAT = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.add_constructor(_INT, _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
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
