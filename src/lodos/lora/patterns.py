"""Ranks and alphas of single layers, by PEFT's `rank_pattern` and `alpha_pattern`.

A pattern is a regex for the end of a module's name, from the start of one of its parts: `q_proj` and
`layers.0.self_attn.q_proj` both mean `model.layers.0.self_attn.q_proj`, `proj` does not. The first pattern that
matches decides. The rule is that of `get_pattern_key` in PEFT's `utils/other.py`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from lodos.errors import UserError

Number = TypeVar("Number", int, float)


def matching_pattern(patterns: Iterable[str], name: str) -> str | None:
    """The pattern that decides for the module called `name`; None if none matches."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", name)), None)


def value_for(patterns: Mapping[str, Number], name: str, default: Number) -> Number:
    """What the patterns say of the module called `name`."""
    pattern = matching_pattern(patterns, name)
    return default if pattern is None else patterns[pattern]


def deciding(patterns: Mapping[str, Number], names: Iterable[str]) -> dict[str, Number]:
    """The patterns that decide for at least one of these modules, in their order."""
    used = {matching_pattern(patterns, name) for name in names}
    return {pattern: value for pattern, value in patterns.items() if pattern in used}


def check_patterns(option: str, patterns: Mapping[str, Number], names: list[str]) -> None:
    """Refuses a pattern that decides nothing: misspelt, it would otherwise leave its layers at the default.

    Args:
        names: the adapted modules.

    Raises:
        UserError: that names each of them.
    """
    used = deciding(patterns, names)
    endings = ", ".join(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))
    problems = []
    for pattern in patterns:
        if pattern in used:
            continue
        if any(matching_pattern([pattern], name) for name in names):
            problems.append(
                f"{option}: {pattern!r} decides nothing: patterns before it match every module that it matches, and "
                "the first one decides. Write it before them."
            )
        else:
            problems.append(
                f"{option}: {pattern!r} matches none of the adapted modules: {endings}. A pattern is a regex for whole "
                "last parts of a module's name, such as q_proj or layers.0.self_attn.q_proj."
            )
    if problems:
        raise UserError("\n".join(problems))


def in_any_order(patterns: Mapping[str, Number], names: list[str], default: Number) -> dict[str, Number]:
    """Patterns that say the same of `names` in whatever order they are read, sorted: PEFT sorts them when it saves.

    Those given, where order does not matter; else the whole name of each module that is not at the default.
    """
    values = {name: value_for(patterns, name, default) for name in names}
    needed = dict(sorted(deciding(patterns, names).items()))
    matching = {name: {needed[p] for p in needed if matching_pattern([p], name)} for name in names}
    if all(len(found) <= 1 for found in matching.values()):
        return needed
    return dict(sorted((name, value) for name, value in values.items() if value != default))
