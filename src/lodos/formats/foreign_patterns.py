"""Regexes of adapters that others have made: which of them end in time.

Python's `re` tries every way in which repetitions can share a text between them: `(q*)*x` on the name of a module takes
longer than anybody waits. So of a foreign pattern a repetition may repeat one character at a time, and a few of them
may follow one another; what PEFT's users write (`model.layers.\\d+.self_attn.q_proj`, `.*(q|v)_proj`) is of that kind.
"""

import re
from collections.abc import Iterable
from re import _constants as sre  # pyright: ignore[reportAttributeAccessIssue]
from re import _parser as parser  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

_MOST_REPETITIONS = 3
_FEW = 8
"""Repeated no more often, it counts as written out."""
_LONGEST = 10_000


def pattern_problems(field: str, patterns: Iterable[str]) -> list[str]:
    """What to say of those that are no regex, or may not end: a line for each."""
    return [f"{field}: {pattern[:80]!r} {why}." for pattern in patterns if (why := _problem(pattern)) is not None]


def _problem(pattern: str) -> str | None:
    if len(pattern) > _LONGEST:
        return f"is longer than {_LONGEST:,} characters"
    try:
        re.compile(pattern)
        repetitions = _repetitions(parser.parse(pattern))
    except (re.error, RecursionError, OverflowError) as error:
        return f"is not a regex: {error}"
    if repetitions is None:
        return "repeats a group, which may take for ever; repeat single characters, or write the names out"
    if repetitions > _MOST_REPETITIONS:
        return f"has {repetitions} repetitions, which may take for ever; {_MOST_REPETITIONS} are read"
    return None


def _repetitions(parsed: Any) -> int | None:
    """How many repetitions there are; None if one repeats more than a character."""
    count = 0
    for operation, argument in parsed:
        inner: list[Any] = []
        match operation:
            case sre.MAX_REPEAT | sre.MIN_REPEAT | sre.POSSESSIVE_REPEAT:
                _, most, body = argument
                if most <= _FEW:
                    inner = [body] * min(most, _FEW)
                elif len(body) == 1 and body[0][0] in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN, sre.CATEGORY):
                    count += 1
                else:
                    return None
            case sre.SUBPATTERN:
                inner = [argument[-1]]
            case sre.BRANCH:
                inner = list(argument[1])
            case sre.ASSERT | sre.ASSERT_NOT:
                inner = [argument[1]]
            case sre.ATOMIC_GROUP:
                inner = [argument]
            case sre.GROUPREF | sre.GROUPREF_EXISTS:
                return None
        for part in inner:
            found = _repetitions(part)
            if found is None:
                return None
            count += found
            if count > 100:
                return count
    return count
